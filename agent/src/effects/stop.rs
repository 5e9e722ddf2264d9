//! A stop, with the hook that may come before its signal. The shim is told first: whatever becomes of this agent, the
//! signal is sent and the container ends in time, and no later agent begins the grace period anew.

use std::{
    collections::HashSet,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use stower_controllers::{FailureReason, HOOK_EXTENSION, Run, Stopping};
use stower_crds::{ContainerSpec, Signal, Uid};
use stower_runtime::{
    ShimHandle,
    adopt::ShimError,
    shim::frame::{Phase, State, error_code},
};

use super::{Done, Effects, Told, chain, failpoint};
use crate::time;

/// What to stop, and how.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    pub(super) uid: Uid,
    pub(super) run: Run,
    pub(super) signal: Option<Signal>,
    pub(super) grace: Duration,
    pub(super) pre_stop: Option<Arc<ContainerSpec>>,
}

impl Stop {
    fn signal(&self) -> u32 {
        u32::try_from(self.signal.unwrap_or(Signal::TERM).number()).unwrap_or(15)
    }
}

impl Effects {
    fn hooks(&self) -> MutexGuard<'_, HashSet<(Uid, Run)>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stop(self: &Arc<Self>, stop: &Stop) -> Done {
        let stopping = |left: u64| {
            let deadline = time::now_mono().plus(Duration::from_millis(left));
            Done::Stopping { run: stop.run, stopping: Stopping { deadline } }
        };
        let shim = self.shims().get(&stop.uid).cloned();
        let told = match &shim {
            Some(shim) if shim.record().run == stop.run.0 => self.tell(shim, stop),
            _ => Err(ShimError::Gone),
        };
        match told {
            Ok(state) => stopping(state.stop_ms),
            // The loop hears of the end from the watcher, or sees a lost shim.
            Err(ShimError::Gone) => stopping(0),
            Err(error) => Done::Failed {
                run: Some(stop.run),
                reason: FailureReason::KillContainerError,
                message: chain(&error),
                cgroup: self.cgroup(&stop.uid),
            },
        }
    }

    fn tell(self: &Arc<Self>, shim: &Arc<ShimHandle>, stop: &Stop) -> Result<State, ShimError> {
        let state = shim.state()?;
        let is_stopping = state.phase == Phase::Stopping;
        let is_sent = is_stopping && state.signal_ms == 0;
        // An agent that is gone has begun it: its signal is not sent a second time, unless there is a hurry.
        if is_sent && Duration::from_millis(state.stop_ms) <= stop.grace {
            return Ok(state);
        }
        let Some(spec) = stop.pre_stop.clone().filter(|_| !is_sent) else {
            failpoint("stop.decided");
            let told = shim.stop(stop.signal(), stop.grace)?;
            failpoint("stop.told");
            return Ok(told);
        };
        failpoint("stop.decided");
        let whole = stop.grace.saturating_add(HOOK_EXTENSION);
        let told = match shim.stop_later(stop.signal(), stop.grace, whole) {
            Err(ShimError::Refused { code: error_code::TYPE, .. }) => {
                tracing::warn!(
                    uid = %stop.uid,
                    "its shim is of a release that knows of no hooks, so it is stopped without its preStop hook"
                );
                return shim.stop(stop.signal(), stop.grace);
            }
            told => told?,
        };
        failpoint("stop.told");
        // One that is under way goes on, with less time.
        if told.signal_ms > 0 && self.hooks().insert((stop.uid.clone(), stop.run)) {
            self.hook_then_signal(Arc::clone(shim), stop.clone(), spec, &told);
        }
        Ok(told)
    }

    /// Runs the hook beside everything else, and then has the shim send the signal.
    fn hook_then_signal(
        self: &Arc<Self>,
        shim: Arc<ShimHandle>,
        stop: Stop,
        spec: Arc<ContainerSpec>,
        told: &State,
    ) {
        let (until, effects) = (Instant::now() + Duration::from_millis(told.signal_ms), Arc::clone(self));
        tokio::spawn(async move {
            let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            let left = until.saturating_duration_since(Instant::now());
            let outcome = match hook {
                Some(hook) => effects.hook(&shim, &spec, hook, left).await,
                None => Ok(()),
            };
            if let Err(message) = outcome {
                let _ =
                    effects.told.send(Told::PreStopFailed { uid: stop.uid.clone(), run: stop.run, message });
            }
            failpoint("stop.hooked");
            let rest = until.saturating_duration_since(Instant::now()).max(HOOK_EXTENSION);
            let (uid, run) = (stop.uid.clone(), stop.run);
            let told = tokio::task::spawn_blocking(move || shim.stop(stop.signal(), rest)).await;
            // Without an answer the shim sends the signal by itself.
            if let Ok(Err(error)) = &told
                && !matches!(error, ShimError::Gone)
            {
                tracing::warn!(%uid, error = chain(error), "its shim was not told that its hook has ended");
            }
            effects.hooks().remove(&(uid, run));
        });
    }
}
