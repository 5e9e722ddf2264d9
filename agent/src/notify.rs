//! What a service manager is told: that the agent is up, that it lives, that it ends (`sd_notify(3)`). Without one it is told to
//! nobody.

use std::{
    ffi::OsString,
    os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt, unix::net::SocketAddr, unix::net::UnixDatagram},
    sync::Arc,
    time::Duration,
};

use crate::node::Node;

/// Whom to tell.
#[derive(Debug, Clone)]
pub(crate) struct Notify {
    to: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The service manager of the environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub(crate) fn from_env() -> Self {
        let watchdog = watchdog(
            std::env::var("WATCHDOG_USEC").ok().as_deref(),
            std::env::var("WATCHDOG_PID").ok().as_deref(),
            std::process::id(),
        );
        let to = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            let opened = address(&name).and_then(|to| Ok((UnixDatagram::unbound()?, to)));
            opened
                .inspect_err(|error| tracing::warn!(?name, %error, "NOTIFY_SOCKET is of no use"))
                .ok()
                .map(Arc::new)
        });
        Self { to, watchdog }
    }

    /// The agent ends.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=containers go on");
    }

    /// Tells that the agent is up once the reconcile loop answers, and then, as often as is asked for, that it still does.
    pub(crate) async fn run(self, node: Arc<Node>) {
        if self.to.is_none() {
            return;
        }
        while node.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.tell("READY=1\nSTATUS=running");
        let Some(limit) = self.watchdog else { return };
        // A third of the time, so that one answer may be late.
        let mut beats = tokio::time::interval(limit / 3);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            match node.ping().await {
                Ok(()) => self.tell("WATCHDOG=1"),
                Err(error) => tracing::error!(%error, "the reconcile loop does not answer the watchdog"),
            }
        }
    }

    fn tell(&self, what: &str) {
        if let Some(to) = &self.to
            && let Err(error) = to.0.send_to_addr(what.as_bytes(), &to.1)
        {
            tracing::warn!(%error, "cannot tell the service manager");
        }
    }
}

/// A path, or with `@` a name that is in no directory.
fn address(name: &OsString) -> std::io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// How often life is to be shown at least; only where this very process is meant.
fn watchdog(micros: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let micros: u64 = micros?.parse().ok().filter(|micros| *micros > 0)?;
    let is_meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    is_meant.then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_counts_for_the_process_that_it_names() {
        assert_eq!(watchdog(Some("30000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(Some("1"), Some("7"), 7), Some(Duration::from_micros(1)));
        for (micros, pid) in [(None, None), (Some("0"), None), (Some("x"), None), (Some("1"), Some("8"))] {
            assert_eq!(watchdog(micros, pid, 7), None, "{micros:?} {pid:?}");
        }
    }
}
