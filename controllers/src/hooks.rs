//! Hooks of a container's life: what is done after its start and before its stop.
//!
//! `postStart` runs right after the start and at least once for each run: a run whose hook is not known to have ended is
//! asked again, by the next agent too. Until then the container is not ready. A failure ends the run, which counts as
//! failed whatever its exit code. `preStop` belongs to a stop: the shim is told of that first, with the time at which it
//! is to go on by itself.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use stower_crds::{ContainerSpec, LifecycleHandler, Signal};

use crate::{observed::Run, record::Launch};

/// What a stop lasts longer at most when its hook took all of the grace period; as kubelet has it.
pub const HOOK_EXTENSION: Duration = Duration::from_secs(2);

/// How far the `postStart` hook of a run has come, for this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostStart {
    /// Which run.
    pub run: Run,
    /// How far.
    pub state: HookState,
}

/// How far a hook has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookState {
    /// It is under way.
    Running,
    /// It succeeded.
    Succeeded,
    /// It did not, and why.
    Failed(String),
}

/// A run that is ended because its `postStart` hook failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedHook {
    /// The run.
    pub run: Run,
    /// What the hook said.
    pub message: String,
}

pub(crate) fn post_start(spec: &ContainerSpec) -> Option<&LifecycleHandler> {
    spec.lifecycle.as_ref()?.post_start.as_ref()
}

/// The hook before a stop. There is none when there is no time for it.
pub(crate) fn pre_stop(spec: &ContainerSpec, grace: Duration) -> Option<&LifecycleHandler> {
    spec.lifecycle.as_ref()?.pre_stop.as_ref().filter(|_| !grace.is_zero())
}

/// The signal that a spec asks to end with; `None` for the image's.
pub(crate) fn stop_signal(spec: &ContainerSpec) -> Option<Signal> {
    spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal).or(spec.stop_signal)
}

/// The spec of what runs, where its hook comes before a stop.
pub(crate) fn hooked(
    launch: Option<&Launch>,
    declared: Option<&Arc<ContainerSpec>>,
    grace: Duration,
) -> Option<Arc<ContainerSpec>> {
    let spec = launch.map(|launch| &launch.spec).or(declared)?;
    pre_stop(spec, grace).map(|_| Arc::clone(spec))
}

#[cfg(test)]
mod tests;
