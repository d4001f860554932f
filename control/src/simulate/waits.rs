//! Waits of requests: quantiles, and how fairly they fell on models.

use greenthread_core::ids::Millis;

/// Waits of all requests that were forwarded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waits {
    /// Sorted, in ms.
    sorted: Vec<u32>,
    sum: u64,
}

/// What one model's requests waited.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelWaits {
    /// Number of the model.
    pub(super) model: usize,
    /// All of them.
    pub(super) waits: Waits,
}

impl Waits {
    fn of(waits: impl Iterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = waits.collect();
        sorted.sort_unstable();
        let sum = sorted.iter().map(|wait| u64::from(*wait)).sum();
        Self { sorted, sum }
    }

    /// The wait that `share` of the requests did not exceed. `lost` further requests waited for ever; `None`: that long, or there is none.
    pub(super) fn quantile(&self, share: f64, lost: u64) -> Option<Millis> {
        let all = self.sorted.len() as f64 + lost as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank, from one to the number of requests"
        )]
        let rank = (all * share).ceil().max(1.0) as usize;
        self.sorted.get(rank - 1).map(|wait| Millis((*wait).into()))
    }

    /// The longest.
    pub(super) fn longest(&self) -> Option<Millis> {
        self.sorted.last().map(|wait| Millis((*wait).into()))
    }

    /// The mean in seconds.
    pub(super) fn mean_s(&self) -> Option<f64> {
        super::slots_report::ratio(self.sum, self.sorted.len() as u64).map(|mean| mean / 1_000.0)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.sorted.len() as u64
    }
}

/// Waits of everybody, and of each model with a forwarded request, by number.
pub(super) fn split(waits: &[(u32, u32)]) -> (Waits, Vec<ModelWaits>) {
    let all = Waits::of(waits.iter().map(|(_, wait)| *wait));
    let mut by_model = waits.to_vec();
    by_model.sort_unstable();
    let models = by_model.chunk_by(|(a, _), (b, _)| a == b);
    let of_models = models
        .filter_map(|chunk| {
            Some(ModelWaits {
                model: usize::try_from(chunk.first()?.0).ok()?,
                waits: Waits::of(chunk.iter().map(|(_, wait)| *wait)),
            })
        })
        .collect();
    (all, of_models)
}

/// Jain's index of the models' mean waits: 1 when all models wait equally long, 1/n when one of n waits for all. 1 when nobody waits.
pub(super) fn jain(models: &[ModelWaits]) -> Option<f64> {
    let means: Vec<f64> = models
        .iter()
        .filter_map(|model| model.waits.mean_s())
        .collect();
    if means.is_empty() {
        return None;
    }
    let sum: f64 = means.iter().sum();
    let squares: f64 = means.iter().map(|mean| mean * mean).sum();
    Some(if squares > 0.0 {
        sum * sum / (means.len() as f64 * squares)
    } else {
        1.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_waits_that_happened() {
        let (all, _) = split(&(1..=100).map(|wait| (0, wait)).collect::<Vec<_>>());
        let seen =
            [0.0, 0.5, 0.95, 0.99, 1.0].map(|share| all.quantile(share, 0).map(|wait| wait.0));
        assert_eq!(seen, [1, 50, 95, 99, 100].map(Some));
        assert_eq!(
            (all.quantile(0.99, 1), all.quantile(0.99, 10)),
            (Some(Millis(100)), None)
        );
        assert_eq!(
            (all.longest(), all.mean_s(), all.count()),
            (Some(Millis(100)), Some(0.0505), 100)
        );
        let (none, models) = split(&[]);
        assert_eq!(
            (none.quantile(0.5, 0), none.mean_s(), jain(&models)),
            (None, None, None)
        );
    }

    #[test]
    fn fairness_is_between_one_for_all_and_all_for_one() {
        let check = |waits: &[(u32, u32)], expected: f64| {
            let index = jain(&split(waits).1).unwrap();
            assert!((index - expected).abs() < 1e-9, "{waits:?}: {index}");
        };
        check(&[(0, 5), (1, 5), (2, 5)], 1.0);
        check(&[(0, 9), (1, 0), (2, 0), (3, 0)], 0.25);
        check(&[(0, 0), (1, 0)], 1.0);
        check(&[(0, 0), (0, 10), (1, 5), (1, 5)], 1.0);
    }
}
