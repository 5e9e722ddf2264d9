//! When and how a container is started again.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Signal};

/// When a container whose process ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    /// Whenever it ends; also at boot, which ends a hold.
    #[default]
    Always,
    /// When it failed: an exit code other than 0, or a signal.
    OnFailure,
    /// Whenever it ends, and at boot unless it is held.
    UnlessStopped,
    /// Never.
    Never,
}

/// How a container is started again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// Restarts in a row after which it has failed for good. By default there is no such number. A run as long as
    /// `backoff.resetAfter` begins the count anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// What to do after which end; the first that matches counts, and without a match `restartPolicy` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RestartRule>,
    /// The time between an end and the next start.
    #[serde(default)]
    pub backoff: Backoff,
    /// What a restart does with the writable layer: `Keep` or `Fresh`.
    #[serde(default)]
    pub rootfs: RootfsPolicy,
}

/// The time between an end and the next start: `initial`, times `factor` after each further end, at most `max`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("duration(self.initial) <= duration(self.max)", "initial must not be longer than max"))]
pub struct Backoff {
    /// The first delay. `0s` restarts at once.
    #[serde(default = "default_initial")]
    pub initial: Duration,
    /// Each delay is the one before times this.
    #[serde(default = "default_factor")]
    pub factor: u32,
    /// The longest delay.
    #[serde(default = "default_max")]
    pub max: Duration,
    /// After a run as long as this the next delay is `initial` again.
    #[serde(default = "default_reset_after")]
    pub reset_after: Duration,
    /// Each delay is made longer by up to this many percent, at random.
    #[serde(default = "default_jitter")]
    pub jitter: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: default_initial(),
            factor: default_factor(),
            max: default_max(),
            reset_after: default_reset_after(),
            jitter: default_jitter(),
        }
    }
}

/// What a restart does with the writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum RootfsPolicy {
    /// Keeps it.
    #[default]
    Keep,
    /// Begins a new one.
    Fresh,
}

/// What to do after an end that matches all that is set here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.exitCodes) || has(self.signals) || has(self.oomKilled)", "one of exitCodes, signals and oomKilled must be set"))]
pub struct RestartRule {
    /// What to do.
    pub action: RuleAction,
    /// Ends by these exit codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_codes: Option<ExitCodeMatch>,
    /// Ends by one of these signals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<Signal>,
    /// Ends with (`true`) or without (`false`) a process that was killed for lack of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RuleAction {
    /// Starts the container again, by its backoff.
    Restart,
    /// Leaves it ended.
    Stop,
}

/// A set of exit codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExitCodeMatch {
    /// `In` or `NotIn`.
    pub operator: SetOperator,
    /// The codes.
    pub values: Vec<u8>,
}

/// How a set is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SetOperator {
    /// One of them.
    In,
    /// None of them.
    NotIn,
}

fn default_initial() -> Duration {
    Duration::from_millis(100)
}

fn default_factor() -> u32 {
    2
}

fn default_max() -> Duration {
    Duration::from_secs(60)
}

fn default_reset_after() -> Duration {
    Duration::from_secs(10)
}

fn default_jitter() -> u32 {
    10
}
