//! What people ask of the loop.

use std::sync::Arc;

use serde_json::Value;
use stower_crds::{AdmitContext, Kind, Object, ObjectKey, admit};

use super::Engine;
use crate::{
    node::{ApiError, Applied, ObjectView, Operation, Outcome, Request, SourceRef},
    time,
};

impl Engine {
    pub(super) fn asked(&mut self, request: Request) {
        // Whoever does not wait for the answer any more does not get one.
        match request {
            Request::Apply { object, dry_run, reply } => {
                let answer = self.apply(*object, dry_run);
                let _ = reply.send(answer);
            }
            Request::Delete { key, reply } => {
                let answer = self.delete(&key);
                let _ = reply.send(answer);
            }
            Request::Operate { key, op, reply } => {
                let answer = self.operate(&key, op);
                let _ = reply.send(answer);
            }
            Request::Plan { reply } => {
                let _ = reply.send(self.describe_plan());
            }
            Request::Dump { reply } => {
                let _ = reply.send(self.dump());
            }
            Request::Ping { reply } => {
                let _ = reply.send(());
            }
            Request::ImagesChanged => self.images_changed(),
            Request::Configured => self.configured(),
            Request::Disk(pressure) => self.disk_changed(pressure),
            Request::References { reply } => {
                let _ = reply.send(self.references());
            }
        }
    }

    fn shown(&self, key: &ObjectKey) -> Result<Arc<ObjectView>, ApiError> {
        self.node.view().objects.get(key).cloned().ok_or_else(|| ApiError::not_found(key))
    }

    fn apply(&mut self, value: Value, dry_run: bool) -> Result<Applied, ApiError> {
        let refused = |errors: Vec<stower_crds::FieldError>| {
            ApiError::invalid(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        let object = admit(value.clone(), &AdmitContext::default()).map_err(refused)?;
        let key = object.key();
        if !self.is_ours(&object) {
            let message = format!("spec.nodeName: this agent is node {:?}; apply it there", self.node_name());
            return Err(ApiError::invalid(message));
        }
        let mut outcome = Outcome::Created;
        if let Some(entry) = self.sources.ledger.get(&key) {
            if entry.claim.source != self.sources.local {
                return Err(read_only(&key, &self.sources.source_ref(&entry.claim)));
            }
            if entry.deleted_at.is_some() {
                let message = format!("{key} is being removed; apply it again once it is gone");
                return Err(ApiError::conflict(message));
            }
            if let (Object::Volume(old), Object::Volume(new)) = (entry.object.as_ref(), &object)
                && old.spec.driver != new.spec.driver
            {
                return Err(self.driver_changed(&key, old.spec.driver, new.spec.driver));
            }
            let context = AdmitContext { old: Some(&entry.object), ..AdmitContext::default() };
            admit(value, &context).map_err(refused)?;
            outcome = if *entry.object == object { Outcome::Unchanged } else { Outcome::Configured };
        }
        if dry_run {
            let object = self.shown(&key).unwrap_or_else(|_| {
                let object = object.to_value();
                Arc::new(ObjectView {
                    key: key.clone(),
                    source: SourceRef::Local,
                    object,
                    resource_version: 0,
                })
            });
            return Ok(Applied { object, outcome });
        }
        if outcome != Outcome::Unchanged {
            self.refuse_unwritten(&key)?;
            self.set_local(&key, Some(object));
            self.publish_key(&key);
            self.check_written(&key)?;
        }
        Ok(Applied { object: self.shown(&key)?, outcome })
    }

    fn delete(&mut self, key: &ObjectKey) -> Result<Arc<ObjectView>, ApiError> {
        let entry = self.sources.ledger.get(key).ok_or_else(|| ApiError::not_found(key))?;
        if entry.claim.source != self.sources.local {
            return Err(read_only(key, &self.sources.source_ref(&entry.claim)));
        }
        self.refuse_unwritten(key)?;
        self.set_local(key, None);
        self.publish_key(key);
        self.check_written(key)?;
        self.shown(key)
    }

    /// Takes nothing more while the ledger cannot be written: it would be forgotten with this process.
    fn refuse_unwritten(&mut self, key: &ObjectKey) -> Result<(), ApiError> {
        if self.sources.local_is_broken() {
            self.mend_journals();
        }
        match self.sources.local_is_broken() {
            true => Err(no_room(&format!("cannot change {key}: the ledger cannot be written"))),
            false => Ok(()),
        }
    }

    /// Says so where a change is in effect and could not be written.
    fn check_written(&self, key: &ObjectKey) -> Result<(), ApiError> {
        match self.sources.local_is_broken() {
            true => Err(no_room(&format!(
                "the change of {key} is in effect, but the ledger cannot be written: it is forgotten if the agent ends before \
                 there is room"
            ))),
            false => Ok(()),
        }
    }

    fn publish_key(&mut self, key: &ObjectKey) {
        if let Some(uid) = self.sources.ledger.get(key).map(|entry| entry.uid.clone()) {
            self.publish(&[uid], &time::now(&self.boot_id));
        }
    }

    fn operate(&mut self, key: &ObjectKey, op: Operation) -> Result<(), ApiError> {
        if key.kind != Kind::Container {
            return Err(ApiError::invalid(format!(
                "{key} has no process; only a Container can be stopped or started"
            )));
        }
        let declared = self.desired.get(key).cloned().ok_or_else(|| ApiError::not_found(key))?;
        if declared.terminating {
            return Err(ApiError::conflict(format!("{key} is being removed")));
        }
        let uid = declared.uid.clone();
        let mut record = match self.records.get(&uid) {
            Some(stower_controllers::RecordState::Unknown { why }) => {
                return Err(ApiError::conflict(format!("the record of {key} cannot be read: {why}")));
            }
            Some(stower_controllers::RecordState::Known(record)) => record.clone(),
            None => stower_controllers::Record::new(uid.clone(), key.clone()),
        };
        let now = time::now(&self.boot_id);
        let grace = match op {
            Operation::Stop { grace } => {
                record.stop("stower stop", &now);
                grace
            }
            Operation::Start => {
                record.start();
                None
            }
            Operation::Restart { grace } => {
                record.restart();
                grace
            }
        };
        record.asked_grace_ms = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        self.remember(uid.clone(), record);
        self.dirty.insert(uid);
        Ok(())
    }

    fn describe_plan(&self) -> Vec<String> {
        let plan = self.plan_all(&time::now(&self.boot_id));
        let mut lines: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
        lines.extend(plan.notes.iter().map(ToString::to_string));
        if !plan.deferred.is_empty() {
            lines.push(format!("{} more start when others have started", plan.deferred.len()));
        }
        lines
    }
}

fn no_room(what: &str) -> ApiError {
    let message =
        format!("{what}; see the agent's log, and free some room in the data root (`stower system df`)");
    ApiError { code: 507, reason: "InsufficientStorage", message }
}

fn read_only(key: &ObjectKey, source: &SourceRef) -> ApiError {
    let what = match source {
        SourceRef::File(path) => format!("change or remove {} instead", path.display()),
        SourceRef::Local => "change it through the local API".to_owned(),
        SourceRef::Kube => "change it there, with kubectl".to_owned(),
    };
    ApiError::forbidden(format!("{key} comes from {source} and is read-only here: {what}"))
}
