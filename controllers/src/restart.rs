//! Whether and when a container is started again.

use std::{fmt, time::Duration};

use stower_crds::{Backoff, ContainerSpec, RestartPolicy, RestartRule, RuleAction, SetOperator, Uid};

use crate::{
    observed::Run,
    record::{EndCause, Ended},
};

/// What decides whether a container is started again after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// The rule of `restart.rules` with this index.
    Rule(usize),
    /// `restartPolicy`.
    Policy(RestartPolicy),
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(index) => write!(f, "restart.rules[{index}]"),
            Self::Policy(policy) => {
                let name = match policy {
                    RestartPolicy::Always => "Always",
                    RestartPolicy::OnFailure => "OnFailure",
                    RestartPolicy::UnlessStopped => "UnlessStopped",
                    RestartPolicy::Never => "Never",
                };
                write!(f, "restartPolicy {name}")
            }
        }
    }
}

/// What the restart rule says of a run that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is started again.
    Restart,
    /// It stays ended, as it should.
    Succeeded,
    /// It stays ended, though it failed.
    Failed,
    /// It stays ended, because as many restarts as are allowed were in vain.
    Exhausted,
}

/// Asks the restart rule of a spec. `retries` is the number of short or failed runs in a row, this one included.
///
/// An end that the agent brought about is no matter for the rule. A rule of `restart.rules` that matches wins over
/// `restartPolicy`; `maxRetries` wins over both. The end of the machine counts as a failure, but not as a retry.
pub fn verdict(spec: &ContainerSpec, ended: &Ended, retries: u32) -> Verdict {
    // Whoever was ended because its hook failed, or for what a probe said, did not succeed, however it went.
    let ended_for_it = ended.failed_hook || ended.unhealthy.is_some();
    let good = ended.exit_code == 0 && ended.cause == EndCause::Exited && !ended_for_it;
    let stays = if good { Verdict::Succeeded } else { Verdict::Failed };
    let ruled = match decider(spec, ended) {
        Decider::Rule(index) => spec.restart.rules.get(index),
        Decider::Policy(_) => None,
    };
    let wanted = match (ruled.map(|rule| rule.action), spec.restart_policy) {
        (Some(RuleAction::Restart), _) => true,
        (Some(RuleAction::Stop), _) => false,
        (None, RestartPolicy::Always | RestartPolicy::UnlessStopped) => true,
        (None, RestartPolicy::OnFailure) => !good,
        (None, RestartPolicy::Never) => false,
    };
    if !wanted {
        stays
    } else if ended.cause != EndCause::Rebooted && spec.restart.max_retries.is_some_and(|max| retries > max) {
        if good { Verdict::Succeeded } else { Verdict::Exhausted }
    } else {
        Verdict::Restart
    }
}

/// What decides about an end: the first rule that matches it, else the policy. Rules are about ends of the program
/// itself, so how a lost shim, a reboot or a failed start is taken is the policy's word.
pub fn decider(spec: &ContainerSpec, ended: &Ended) -> Decider {
    let rule = match ended.cause {
        EndCause::Exited => spec.restart.rules.iter().position(|rule| matches(rule, ended)),
        _ => None,
    };
    rule.map_or(Decider::Policy(spec.restart_policy), Decider::Rule)
}

/// Whether every part of a rule that is set matches.
fn matches(rule: &RestartRule, ended: &Ended) -> bool {
    let code = rule.exit_codes.as_ref().is_none_or(|codes| {
        let listed = codes.values.iter().any(|value| i32::from(*value) == ended.exit_code);
        match codes.operator {
            SetOperator::In => listed,
            SetOperator::NotIn => !listed,
        }
    });
    let signal = rule.signals.is_empty()
        || ended.signal.is_some_and(|number| rule.signals.iter().any(|signal| signal.number() == number));
    let oom = rule.oom_killed.is_none_or(|oom| oom == ended.oom_killed);
    code && signal && oom
}

/// How long to wait before the start that follows `retries` short or failed runs in a row:
/// `initial · factor^(retries-1)`, at most `max`, then longer by up to `jitter` percent. The part of the jitter that
/// is taken is a function of container and run, so that a plan is the same each time and yet no two containers
/// stay in step.
pub fn backoff_delay(backoff: &Backoff, retries: u32, uid: &Uid, run: Run) -> Duration {
    if retries == 0 {
        return Duration::ZERO;
    }
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let max = nanos(backoff.max.into());
    let mut delay = nanos(backoff.initial.into()).min(max);
    for _ in 1..retries {
        // Neither grows for ever nor loops for ever: it stops at the cap, and where it does not grow.
        if delay >= max || backoff.factor <= 1 || delay == 0 {
            break;
        }
        delay = delay.saturating_mul(u64::from(backoff.factor)).min(max);
    }
    let parts = mix(uid, run) % 1001;
    let longest = u128::from(delay) * u128::from(backoff.jitter) / 100;
    let more = u64::try_from(longest * u128::from(parts) / 1000).unwrap_or(u64::MAX);
    Duration::from_nanos(delay.saturating_add(more))
}

/// FNV-1a over UID and run: spread, not secrecy.
pub(crate) fn mix(uid: &Uid, run: Run) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in uid.as_str().bytes().chain(run.0.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ (hash >> 29)
}

/// How long to wait before an image is asked for again after `attempts` failures in a row: 1 s, doubled, at most
/// 60 s.
pub fn pull_delay(attempts: u32) -> Duration {
    doubled(Duration::from_secs(1), attempts, Duration::from_secs(60))
}

/// How long to wait before any other effect is tried again after `attempts` failures in a row: 250 ms, doubled, at
/// most 10 s, because what it waits for may appear without a sign.
pub fn retry_delay(attempts: u32) -> Duration {
    doubled(Duration::from_millis(250), attempts, Duration::from_secs(10))
}

fn doubled(initial: Duration, attempts: u32, max: Duration) -> Duration {
    let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    initial.saturating_mul(factor.max(1)).min(max)
}

#[cfg(test)]
mod tests;
