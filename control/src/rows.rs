//! The table that gates get: what the core publishes, joined with what the fleet file says, as rows with their documents.
//!
//! Promises that every live prefix belongs to one row: when a model gets another engine, its new row takes the prefixes and the
//! old one keeps only its figures. Public documents name the class of an error, never its text.

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
    let failure = match row.admission {
        _ if row.removed => Some("removed"),
        _ if !row.boot_ready => Some("booting"),
        Admission::Admit | Admission::Hold { .. } => None,
        Admission::Refuse { reason, .. } => match reason {
            RefuseReason::Booting => Some("booting"),
            RefuseReason::WakeFailed | RefuseReason::EngineFailed => Some("failed"),
            RefuseReason::NeverFits => Some("never_fits"),
            RefuseReason::Disabled => Some("disabled"),
            RefuseReason::Draining | RefuseReason::TooLong => None,
        },
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

#[cfg(test)]
mod tests {
    use greenthread_core::{effect::PublicState, ids::Epoch, model::Caps};

    use super::*;
    use crate::testing;

    fn row(id: &str, admission: Admission) -> PublishedRow {
        PublishedRow {
            model: ModelId(id.into()),
            epoch: Epoch {
                term: 3,
                counter: 7,
            },
            admission,
            state: PublicState::Serving,
            boot_ready: true,
            barriered: false,
            error_class: "",
            removed: false,
        }
    }

    fn status_of(row: &PublishedRow, in_flight: u64) -> String {
        let (head, tail) = status_document("llama-3-8b", row);
        format!("{head}{in_flight}{tail}")
    }

    #[test]
    fn status_is_the_document_of_the_api() {
        let serving = status_of(&row("llama-3-8b.1", Admission::Admit), 3);
        assert_eq!(
            serving,
            r#"{"model":"llama-3-8b","state":"serving","bootReady":true,"queue":{"inFlight":3,"barriered":false}}"#
        );
    }

    #[test]
    fn status_has_the_wait_and_the_class_of_an_error_behind_it() {
        let mut failed = row(
            "llama-3-8b.1",
            Admission::Hold {
                estimated_wait: 900,
            },
        );
        failed.error_class = "wake_failed";
        let document: serde_json::Value = serde_json::from_str(&status_of(&failed, 0)).unwrap();
        assert_eq!(document["estimatedWaitMs"], 900);
        assert_eq!(document["lastError"], "wake_failed");
    }

    #[test]
    fn health_follows_what_a_request_would_meet() {
        let check = |admission, boot_ready, expected| {
            let row = PublishedRow {
                boot_ready,
                ..row("m.1", admission)
            };
            let (status, document) = health_document(&row);
            assert_eq!(status, expected, "{row:?}");
            assert!(
                serde_json::from_str::<serde_json::Value>(&document).is_ok(),
                "{document}"
            );
        };
        let refuse = |reason| Admission::Refuse {
            reason,
            retry_after: 5,
        };
        check(Admission::Admit, true, 200);
        check(Admission::Hold { estimated_wait: 0 }, true, 200);
        check(refuse(RefuseReason::Draining), true, 200);
        check(Admission::Hold { estimated_wait: 0 }, false, 503);
        check(refuse(RefuseReason::WakeFailed), true, 503);
        check(refuse(RefuseReason::Disabled), true, 503);
    }

    #[test]
    fn models_lists_the_served_id() {
        let mut table = Table::new(testing::hold());
        table.set(
            testing::model("llama-3-8b", "127.0.0.1:9001"),
            1_773_032_509,
        );
        let id = table.named("llama-3-8b").unwrap().clone();
        let row = table.publish(row(&id.0, Admission::Admit)).unwrap();
        let expected = r#"{"object":"list","data":[{"id":"served/llama-3-8b","object":"model","created":1773032509,"owned_by":"vllm","root":"served/llama-3-8b","max_model_len":131072}]}"#;
        assert_eq!(std::str::from_utf8(&row.models_document).unwrap(), expected);
        assert_eq!(
            row.epoch,
            Some(gate::Epoch {
                term: 3,
                counter: 7
            })
        );

        let card = ModelCard {
            created: 5,
            root: Some("/weights".into()),
            max_model_len: Some(512),
        };
        assert!(table.set_card(&id, card.clone()) && !table.set_card(&id, card));
        let document: serde_json::Value =
            serde_json::from_slice(&table.render(&id).unwrap().models_document).unwrap();
        assert_eq!(
            (
                &document["data"][0]["root"],
                &document["data"][0]["max_model_len"]
            ),
            (&json!("/weights"), &json!(512))
        );
    }

    #[test]
    fn another_engine_takes_the_prefixes_of_the_old_row() {
        let mut table = Table::new(testing::hold());
        let (old, _) = table.set(testing::model("m", "127.0.0.1:9001"), 1);
        table.publish(row(&old.id.0, Admission::Admit)).unwrap();
        let (new, changed) = table.set(testing::model("m", "127.0.0.1:9002"), 2);
        assert_eq!(changed, vec![old.id.clone()]);
        assert_eq!(
            table.render(&old.id).unwrap().prefixes,
            Vec::<String>::new()
        );
        assert_eq!(
            table
                .publish(row(&new.id.0, Admission::Admit))
                .unwrap()
                .prefixes,
            ["m"]
        );
        assert_eq!(table.named("m"), Some(&new.id));

        let removed = PublishedRow {
            removed: true,
            ..row(&new.id.0, Admission::Admit)
        };
        table.publish(removed).unwrap();
        assert_eq!(table.named("m"), Some(&old.id));
    }

    #[test]
    fn rows_flow_only_where_nothing_can_be_lost() {
        let check = |caps, said, expected| {
            let mut model = testing::model("m", "127.0.0.1:9001");
            (model.spec.caps, model.on_lease_end) = (caps, said);
            assert_eq!(on_lease_end(&model), expected);
        };
        let proven = Caps {
            counts: true,
            lossless: true,
            restartable: false,
        };
        check(proven, None, OnLeaseEnd::Flow);
        check(proven, Some(OnLeaseEnd::Hold), OnLeaseEnd::Hold);
        check(
            Caps {
                counts: false,
                ..proven
            },
            None,
            OnLeaseEnd::Hold,
        );
        check(
            Caps {
                lossless: false,
                ..proven
            },
            None,
            OnLeaseEnd::Hold,
        );
    }
}
