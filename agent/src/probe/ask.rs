//! Asking one probe, and what its answer is in kubelet's words.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stower_controllers::ProbeOutcome;
use stower_crds::{ContainerPort, ContainerSpec, ObjectKey, Probe, ProbeType, Uid};
use stower_runtime::ShimHandle;

use crate::{
    effects::{Effects, chain},
    handler::{self, ExecAnswer, HandlerError, Health, HttpAnswer},
};

/// Asks the probes of one run.
pub(super) struct Asker {
    effects: Arc<Effects>,
    container: Arc<ShimHandle>,
    key: ObjectKey,
    uid: Uid,
    ports: Vec<ContainerPort>,
}

impl Asker {
    pub(super) fn new(
        effects: Arc<Effects>,
        container: Arc<ShimHandle>,
        key: ObjectKey,
        uid: Uid,
        spec: &ContainerSpec,
    ) -> Self {
        Self { effects, container, key, uid, ports: spec.ports.clone() }
    }

    /// The same for another spec.
    pub(super) fn with(&self, spec: &ContainerSpec) -> Self {
        let (effects, container) = (Arc::clone(&self.effects), Arc::clone(&self.container));
        Self::new(effects, container, self.key.clone(), self.uid.clone(), spec)
    }

    /// Asks, at most as long as the probe may take.
    pub(super) async fn ask(&self, type_: ProbeType, probe: &Probe) -> ProbeOutcome {
        let begun = Instant::now();
        let timeout = Duration::from_secs(probe.timeout().into());
        let asked = tokio::time::timeout(timeout, self.act(probe, timeout)).await;
        let outcome = asked.unwrap_or_else(|_| ProbeOutcome::Failure(late(probe)));
        let result = match &outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => "successful",
            ProbeOutcome::Failure(_) => "failed",
            ProbeOutcome::Unknown(_) => "unknown",
        };
        self.effects.metrics.probes.count(type_, result, &self.key, begun.elapsed());
        tracing::debug!(
            kind = "Container", namespace = %self.key.namespace, name = %self.key.name, action = "probe",
            probe = type_.as_str(), ?outcome, took = ?begun.elapsed(), "asked a probe"
        );
        outcome
    }

    async fn act(&self, probe: &Probe, timeout: Duration) -> ProbeOutcome {
        let handlers = &self.effects.handlers;
        if let Some(action) = &probe.http_get {
            let answer = handlers.http_get(&self.container, action, &self.ports).await;
            return http(answer, action);
        }
        if let Some(action) = &probe.tcp_socket {
            let port = match handler::port(&action.port, &self.ports) {
                Ok(port) => port,
                Err(error) => return failed(&error),
            };
            let host = action.host.as_deref().filter(|host| !host.is_empty());
            return match handlers.connect(&self.container, host, port).await {
                Ok(_) => ProbeOutcome::Success,
                Err(error) => failed(&error),
            };
        }
        if let Some(action) = &probe.grpc {
            return grpc(handlers.health(&self.container, action).await);
        }
        let Some(action) = &probe.exec else { return ProbeOutcome::Unknown("it has no handler".into()) };
        match handlers.exec(&self.container, &action.command, timeout).await {
            Ok(answer) => exec(&answer, probe),
            Err(error) => ProbeOutcome::Unknown(chain(&error)),
        }
    }
}

/// Whoever could not be asked for a reason of our own has not failed.
fn failed(error: &HandlerError) -> ProbeOutcome {
    let message = chain(error);
    if error.is_ours() { ProbeOutcome::Unknown(message) } else { ProbeOutcome::Failure(message) }
}

/// That no answer came in time.
fn late(probe: &Probe) -> String {
    let seconds = probe.timeout();
    match probe {
        Probe { http_get: Some(action), .. } => {
            format!("Get {:?}: no answer within {seconds} s", handler::shown(action))
        }
        Probe { tcp_socket: Some(_), .. } => format!("dial tcp: no connection within {seconds} s"),
        Probe { grpc: Some(_), .. } => format!("timeout: health rpc did not complete within {seconds} s"),
        Probe { exec: Some(action), .. } => {
            format!("command {:?} timed out after {seconds} s", action.command.join(" "))
        }
        _ => format!("timed out after {seconds} s"),
    }
}

fn http(answer: Result<HttpAnswer, HandlerError>, action: &stower_crds::HttpGetAction) -> ProbeOutcome {
    match answer {
        Ok(HttpAnswer { status: 200..=299, .. }) => ProbeOutcome::Success,
        Ok(HttpAnswer { status: 300..=399, body, .. }) => ProbeOutcome::Warning(format!(
            "Probe terminated redirects, Response body: {}",
            String::from_utf8_lossy(&body)
        )),
        Ok(HttpAnswer { status, .. }) => {
            ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {status}"))
        }
        Err(error) if error.is_ours() => failed(&error),
        Err(error) => ProbeOutcome::Failure(format!("Get {:?}: {}", handler::shown(action), chain(&error))),
    }
}

fn exec(answer: &ExecAnswer, probe: &Probe) -> ProbeOutcome {
    if answer.exit.timed_out {
        return ProbeOutcome::Failure(late(probe));
    }
    let said = String::from_utf8_lossy(&answer.output);
    let said = said.trim();
    match answer.exit.code {
        0 => ProbeOutcome::Success,
        code if said.is_empty() => ProbeOutcome::Failure(format!("exit code {code}")),
        _ => ProbeOutcome::Failure(said.to_owned()),
    }
}

fn grpc(health: Result<Health, HandlerError>) -> ProbeOutcome {
    match health {
        Ok(Health::Serving) => ProbeOutcome::Success,
        Ok(Health::Not(status)) => {
            ProbeOutcome::Failure(format!("service unhealthy (responded with {status:?})"))
        }
        Ok(Health::Unimplemented(said)) => ProbeOutcome::Failure(format!(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health): {said}"
        )),
        Ok(Health::Failed(said)) => ProbeOutcome::Failure(format!("health rpc probe failed: {said}")),
        Err(error) => failed(&error),
    }
}
