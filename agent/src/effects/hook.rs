//! The hooks of a container's life.

use std::{sync::Arc, time::Duration};

use stower_controllers::Run;
use stower_crds::{ContainerSpec, LifecycleHandler, Uid};
use stower_runtime::ShimHandle;

use super::{Done, Effects};

/// Bytes of a program's output that are told.
const MAX_OUTPUT: usize = 1024;

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
            if let Some(exec) = &hook.exec {
                return self.exec_hook(shim, &exec.command, left).await;
            }
            if let Some(action) = &hook.http_get {
                // Any answer will do, as with kubelet.
                let answer = self.handlers.http_get(shim, action, &spec.ports).await;
                let failed =
                    |error| format!("Get {:?}: {}", crate::handler::shown(action), super::chain(&error));
                return answer.map(drop).map_err(failed);
            }
            Err("it has no handler".to_owned())
        };
        match tokio::time::timeout(left, ran).await {
            Ok(outcome) => outcome,
            Err(_) => Err(late(left)),
        }
    }

    /// Runs a program in the container. Its deadline is its keeper's too, so nothing of it is left after it.
    async fn exec_hook(
        &self,
        shim: &Arc<ShimHandle>,
        command: &[String],
        left: Duration,
    ) -> Result<(), String> {
        let ran = self.handlers.exec(shim, command, left).await;
        let answer = ran.map_err(|error| super::chain(&error))?;
        let said = String::from_utf8_lossy(&answer.output[..answer.output.len().min(MAX_OUTPUT)]);
        let said = if said.trim().is_empty() { String::new() } else { format!(": {}", said.trim()) };
        match answer.exit {
            exit if exit.timed_out => Err(late(left) + &said),
            exit if exit.code != 0 => {
                Err(format!("command '{}' exited with {}{said}", command.join(" "), exit.code))
            }
            _ => Ok(()),
        }
    }
}

fn late(left: Duration) -> String {
    format!("it did not end within {} s", left.as_secs_f64().ceil())
}
