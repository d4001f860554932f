//! What becomes of a state when nothing goes wrong any more: everything is delivered at once, whoever stopped goes on, the clock runs.

use crate::{
    checker::Prints,
    fingerprint::fingerprint,
    memo::Memo,
    row::{Budget, Row},
    world::{Action, Step, World},
};

/// Ticks within which everything must have come to its end: a lease and a margin after the last fault, the successor's wait, a sleep and
/// a wake, and the pauses in which gates open streams again.
const SETTLES_WITHIN: u64 = 30;
/// Actions within one tick, of a world that is going round in circles if it needs more.
const MOST_ACTIONS: usize = 500;

/// How much an action is wanted; smaller comes first, `None` is not done at all.
fn order(action: Action) -> Option<u8> {
    match action {
        Action::ThawGate(_) | Action::ThawControl(_) => Some(0),
        Action::TakeTerm(_) | Action::Succeed => Some(1),
        Action::GateLoses(_) | Action::ControlLoses(_) => Some(2),
        Action::Attach(..) | Action::Up(_) | Action::Down(_) => Some(3),
        Action::Reach(_) | Action::Tell(_) | Action::Finish(_) | Action::Vanish(_) => Some(4),
        Action::Execute(_) | Action::Answer(_) => Some(5),
        Action::GateTick(_) => Some(6),
        Action::Tick => Some(7),
        Action::Break(_)
        | Action::Arrive(_)
        | Action::Leave(_)
        | Action::LoseCall(_)
        | Action::DropCall(_)
        | Action::WishSleep
        | Action::WishWake
        | Action::CrashGate(_)
        | Action::FreezeGate(_)
        | Action::CrashControl(_)
        | Action::FreezeControl(_)
        | Action::Depose(_)
        | Action::Jump(_) => None,
    }
}

/// What is done next when nothing goes wrong.
pub(crate) fn next(world: &World, row: &Row) -> Option<Action> {
    let actions = world.actions(row).into_iter();
    let wanted = actions.filter_map(|action| order(action).map(|order| (order, action)));
    wanted
        .min_by_key(|(order, _)| *order)
        .map(|(_, action)| action)
}

/// Lets the world run on for so many ticks, or until `enough`, asked before each action. Returns it, or what was broken meanwhile.
pub(crate) fn run(
    world: &World,
    row: &Row,
    memo: &Memo,
    ticks: u64,
    mut enough: impl FnMut(&World) -> bool,
) -> Result<World, String> {
    let mut world = World {
        left: Budget::default(),
        ..world.clone()
    };
    let (end, mut actions) = (world.now + ticks * crate::TICK.0, 0);
    while world.now < end {
        let Some(action) = next(&world, row) else {
            return Err("nothing can happen any more, not even time".to_owned());
        };
        if enough(&world) {
            return Ok(world);
        }
        actions = if action == Action::Tick {
            0
        } else {
            actions + 1
        };
        if actions > MOST_ACTIONS {
            return Err(format!("it goes round in circles: {action:?}"));
        }
        let mut step = Step::new(row, memo, false);
        world = world.after(action, &mut step);
        if let Some(broken) = step.broken {
            return Err(broken);
        }
    }
    Ok(world)
}

/// Rule 9, S7 and the liveness of the drain: once faults stop, nobody is held for ever, and nobody waits in an engine that sleeps.
/// `settled` are states of which that is known; more are added.
pub(crate) fn settles(
    world: &World,
    row: &Row,
    memo: &Memo,
    settled: &mut Prints,
) -> Result<(), String> {
    let mut met = Vec::new();
    let mut known = false;
    let end = run(world, row, memo, SETTLES_WITHIN, |world| {
        let print = fingerprint(world);
        known = settled.contains(&print);
        met.push(print);
        known
    })?;
    if known {
        settled.extend(met);
        return Ok(());
    }
    match end.requests.iter().position(Option::is_some) {
        Some(slot) => {
            let place = end.requests[slot].map(|request| request.place);
            Err(format!(
                "request {} still waits {SETTLES_WITHIN} ticks after the last fault: {place:?}",
                slot + 1
            ))
        }
        None => {
            settled.extend(met);
            Ok(())
        }
    }
}
