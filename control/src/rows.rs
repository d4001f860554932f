//! The table that gates get: what the core publishes, joined with what the fleet file says, as rows with their documents.
//!
//! Promises that every live prefix belongs to one row: when a model gets another engine, its new row takes the prefixes and the
//! old one keeps only its figures. Public documents name the class of an error, never its text.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use greenthread_core::{
    effect::{Admission, PublishedRow, RefuseReason},
    ids::ModelId,
    model::{ModelSpec, OnLeaseEnd},
};
use greenthread_proto::gate::{self, row};
use serde_json::json;

use crate::{
    config::{Hold, Model},
    engine::{self, ModelCard},
};

/// Models by row id, with what was last published of each.
#[derive(Debug)]
pub struct Table {
    hold: Hold,
    models: BTreeMap<ModelId, Entry>,
}

#[derive(Debug)]
struct Entry {
    model: Model,
    /// Seconds since 1970 for `/v1/models`: when this control first knew the model.
    created: u64,
    /// What the row claims now; a newer row may have taken some of the model's own.
    prefixes: Vec<String>,
    published: Option<PublishedRow>,
    /// What the engine says about its model; absent before it was ever asked.
    card: Option<ModelCard>,
}

impl Table {
    /// An empty table with the hold limits of every row.
    pub fn new(hold: Hold) -> Self {
        Self {
            hold,
            models: BTreeMap::new(),
        }
    }

    /// Takes a new model, or new settings of a known one. Returns what the core must be told of it, and the rows that were published and
    /// look different now.
    pub fn set(&mut self, mut model: Model, unix_seconds: u64) -> (ModelSpec, Vec<ModelId>) {
        model.spec.on_lease_end = on_lease_end(&model);
        let spec = model.spec.clone();
        let mut changed = Vec::new();
        for (id, other) in &mut self.models {
            let before = other.prefixes.len();
            if *id != spec.id {
                other
                    .prefixes
                    .retain(|prefix| !model.prefixes.contains(prefix));
            }
            if other.published.is_some() && (*id == spec.id || other.prefixes.len() < before) {
                changed.push(id.clone());
            }
        }
        let prefixes = model.prefixes.clone();
        let entry = match self.models.remove(&spec.id) {
            Some(known) => Entry {
                model,
                prefixes,
                ..known
            },
            None => Entry {
                model,
                prefixes,
                created: unix_seconds,
                published: None,
                card: None,
            },
        };
        self.models.insert(spec.id.clone(), entry);
        (spec, changed)
    }

    /// Forgets a model and its documents.
    pub fn forget(&mut self, model: &ModelId) {
        self.models.remove(model);
    }

    /// The settings of a model.
    pub fn model(&self, id: &ModelId) -> Option<&Model> {
        self.models.get(id).map(|entry| &entry.model)
    }

    /// The row that a name means. Of several, while one replaces another, the one whose prefixes are in force; removed ones do not count.
    pub fn named(&self, name: &str) -> Option<&ModelId> {
        let rows = || self.live().filter(|(_, entry)| entry.model.name == name);
        let in_force = rows().find(|(_, entry)| !entry.prefixes.is_empty());
        in_force.or_else(|| rows().next()).map(|(id, _)| id)
    }

    /// Names of all models.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .live()
            .map(|(_, entry)| entry.model.name.clone())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn live(&self) -> impl Iterator<Item = (&ModelId, &Entry)> {
        let removed = |entry: &Entry| entry.published.as_ref().is_some_and(|row| row.removed);
        self.models.iter().filter(move |(_, entry)| !removed(entry))
    }

    /// Takes the engine's own card of its model. Returns whether the row looks different now.
    pub fn set_card(&mut self, id: &ModelId, card: ModelCard) -> bool {
        let Some(entry) = self.models.get_mut(id) else {
            return false;
        };
        let changed = entry.card.as_ref() != Some(&card);
        entry.card = Some(card);
        changed && entry.published.is_some()
    }

    /// Remembers what the core published and renders the row. `None`: a row of no model, which cannot be routed.
    pub fn publish(&mut self, row: PublishedRow) -> Option<gate::Row> {
        let id = row.model.clone();
        self.models.get_mut(&id)?.published = Some(row);
        self.render(&id)
    }

    /// Renders the row as it was last published.
    pub fn render(&self, id: &ModelId) -> Option<gate::Row> {
        let Entry {
            model,
            created,
            prefixes,
            published,
            card,
        } = self.models.get(id)?;
        let row = published.as_ref()?;
        let (status_head, status_tail) = status_document(&model.name, row);
        let (health_status, health_document) = health_document(row);
        Some(gate::Row {
            id: id.0.clone(),
            model: model.name.clone(),
            prefixes: prefixes.clone(),
            cluster: model.cluster.clone(),
            epoch: Some(gate::Epoch {
                term: row.epoch.term,
                counter: row.epoch.counter,
            }),
            admission: Some(admission(row.admission)),
            on_lease_end: match model.spec.on_lease_end {
                OnLeaseEnd::Hold => gate::OnLeaseEnd::Hold,
                OnLeaseEnd::Flow => gate::OnLeaseEnd::Flow,
            }
            .into(),
            hold_budget_ms: u64::try_from(self.hold.budget.as_millis()).unwrap_or(u64::MAX),
            hold_limit: self.hold.per_model,
            control_paths: engine::control_paths(model.engine.kind)
                .iter()
                .map(|&path| path.to_owned())
                .collect(),
            expose: model.expose.clone(),
            status_head: status_head.into_bytes(),
            status_tail: status_tail.into_bytes(),
            models_document: models_document(model, *created, card.as_ref()).into_bytes(),
            health_document: health_document.into_bytes(),
            health_status,
            removed: row.removed,
        })
    }
}

/// What gates do with the row when their lease ended: the operator's word, else `flow` where the engine is proven to lose nothing.
fn on_lease_end(model: &Model) -> OnLeaseEnd {
    let caps = model.spec.caps;
    model
        .on_lease_end
        .unwrap_or(if caps.lossless && caps.counts {
            OnLeaseEnd::Flow
        } else {
            OnLeaseEnd::Hold
        })
}

fn admission(admission: Admission) -> row::Admission {
    match admission {
        Admission::Admit => row::Admission::Admit(gate::Admit {}),
        Admission::Hold { estimated_wait } => row::Admission::Hold(gate::Hold {
            estimated_wait_ms: estimated_wait,
        }),
        Admission::Refuse {
            reason,
            retry_after,
        } => {
            let reason = match reason {
                RefuseReason::Draining => gate::RefuseReason::Draining,
                RefuseReason::Booting => gate::RefuseReason::Booting,
                RefuseReason::WakeFailed => gate::RefuseReason::WakeFailed,
                RefuseReason::Disabled => gate::RefuseReason::Disabled,
                RefuseReason::NeverFits => gate::RefuseReason::NeverFits,
                RefuseReason::EngineFailed => gate::RefuseReason::EngineFailed,
                RefuseReason::TooLong => gate::RefuseReason::TooLong,
            };
            row::Admission::Refuse(gate::Refuse {
                reason: reason.into(),
                retry_after_s: retry_after,
            })
        }
    }
}

/// `/status` in two parts: the gate writes its number in flight between them.
fn status_document(name: &str, row: &PublishedRow) -> (String, String) {
    let head = format!(
        r#"{{"model":{},"state":"{}","bootReady":{},"queue":{{"inFlight":"#,
        json!(name),
        row.state.as_str(),
        row.boot_ready
    );
    let mut tail = format!(r#","barriered":{}}}"#, row.barriered);
    if let Admission::Hold {
        estimated_wait: estimated_wait @ 1..,
    } = row.admission
    {
        tail.push_str(&format!(r#","estimatedWaitMs":{estimated_wait}"#));
    }
    if !row.error_class.is_empty() {
        tail.push_str(&format!(r#","lastError":{}"#, json!(row.error_class)));
    }
    tail.push('}');
    (head, tail)
}

/// `/v1/models`, the same in every state: the engine's own figures once it was asked, the fleet file's before.
fn models_document(model: &Model, created: u64, card: Option<&ModelCard>) -> String {
    // Written out, not collected: the keys stand in the order in which the engine's own document has them.
    let served = json!(model.served);
    let root = json!(
        card.and_then(|card| card.root.as_ref())
            .unwrap_or(&model.served)
    );
    let created = card.map_or(created, |card| card.created);
    let length = json!(
        card.and_then(|card| card.max_model_len)
            .or(model.max_model_len)
    );
    format!(
        r#"{{"object":"list","data":[{{"id":{served},"object":"model","created":{created},"owned_by":"vllm","root":{root},"max_model_len":{length}}}]}}"#
    )
}

/// `/health`: a model that sleeps is healthy, since a request would be answered.
fn health_document(row: &PublishedRow) -> (u32, String) {
    let not_booted = (!row.boot_ready).then_some("booting");
    let failure = match row.admission {
        _ if row.removed => Some("removed"),
        Admission::Refuse { reason, .. } => match reason {
            RefuseReason::Booting => Some("booting"),
            // These say more than "booting" of a model whose first start is not over.
            RefuseReason::WakeFailed | RefuseReason::EngineFailed => Some("failed"),
            RefuseReason::NeverFits => Some("never_fits"),
            RefuseReason::Disabled => Some("disabled"),
            RefuseReason::Draining | RefuseReason::TooLong => not_booted,
        },
        Admission::Admit | Admission::Hold { .. } => not_booted,
    };
    let state = row.state.as_str();
    let error = match row.error_class {
        "" => String::new(),
        class => format!(r#","lastError":{}"#, json!(class)),
    };
    match failure {
        None => (200, format!(r#"{{"status":"ok","state":"{state}"}}"#)),
        Some("removed") => (404, r#"{"status":"removed"}"#.to_owned()),
        Some(status) => (
            503,
            format!(r#"{{"status":"{status}","state":"{state}"{error}}}"#),
        ),
    }
}
