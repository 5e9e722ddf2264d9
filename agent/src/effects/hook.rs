//! The hooks of a container's life.

use std::{sync::Arc, time::Duration};

use stower_controllers::Run;
use stower_crds::{ContainerSpec, LifecycleHandler, Uid};
use stower_runtime::ShimHandle;

use super::{Done, Effects};

/// The longest that a `postStart` hook may take; kubelet knows of no bound.
pub(super) const POST_START_DEADLINE: Duration = Duration::from_secs(3600);

impl Effects {
    /// Runs the `postStart` hook of a run.
    pub(super) async fn post_start(&self, uid: &Uid, run: Run, spec: &ContainerSpec) -> Done {
        super::failpoint("post_start.begun");
        let shim = self.shims().get(uid).filter(|shim| shim.record().run == run.0).cloned();
        let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let outcome = match (shim, hook) {
            (Some(shim), Some(hook)) => self.hook(&shim, spec, hook, POST_START_DEADLINE).await,
            (None, _) => Err("the container has ended".to_owned()),
            (Some(_), None) => Ok(()),
        };
        super::failpoint("post_start.ended");
        Done::Hooked { run, outcome }
    }

    /// Runs a hook, for so long at most.
    ///
    /// # Errors
    /// With what went wrong, for people.
    pub(super) async fn hook(
        &self,
        shim: &Arc<ShimHandle>,
        spec: &ContainerSpec,
        hook: &LifecycleHandler,
        left: Duration,
    ) -> Result<(), String> {
        let ran = async {
            if let Some(sleep) = &hook.sleep {
                tokio::time::sleep(Duration::from_secs(sleep.seconds.into())).await;
                return Ok(());
            }
            let _ = (shim, spec);
            Err("this handler is not built yet".to_owned())
        };
        match tokio::time::timeout(left, ran).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("it did not end within {} s", left.as_secs())),
        }
    }
}
