//! Brings a record up to what was seen. Doing so twice changes nothing.

use std::{collections::BTreeSet, time::Duration};

use stower_crds::{RestartPolicy, TerminationMessagePolicy};

use crate::{
    action::ActionKind,
    desired::Declared,
    observed::{CgroupState, Exit, FailureReason, ImageState, ObservedContainer, ProcessState, Run},
    record::{Deadline, EndCause, Ended, Launch, LaunchStage, Record},
    restart::{Verdict, backoff_delay, retry_delay, verdict},
    time::Now,
};

/// The exit code of a run whose own is not known.
const UNKNOWN_EXIT: i32 = 255;
/// The exit code of a run that could not be started, as runtimes and kubelet have it.
const START_FAILED: i32 = 128;

pub(crate) fn account(record: &mut Record, declared: &Declared, observed: &ObservedContainer, now: &Now) {
    cross_boot(record, declared, now);
    let gone = matches!(observed.cgroup, CgroupState::Absent | CgroupState::Empty);
    match &observed.process {
        ProcessState::Unknown { .. } => {}
        ProcessState::Running { run, .. } => {
            started(record, declared, observed, *run, now);
            if record.restart_requested.is_none() {
                record.start_requested = false;
            }
        }
        ProcessState::Exited { run, exit } => {
            if is_news(record, *run) {
                started(record, declared, observed, *run, now);
                let ran = Some(ran_for(exit));
                let ended = of_exit(*run, EndCause::Exited, exit, last_words(declared, exit));
                end(record, declared, ended, ran, now);
            }
        }
        // Its processes are killed first; until none is left, it has not ended.
        ProcessState::Lost { run, started_at, exit } => {
            if gone && is_news(record, *run) {
                started(record, declared, observed, *run, now);
                let ended = match exit {
                    Some(exit) => of_exit(*run, EndCause::ShimLost, exit, String::new()),
                    None => Ended {
                        started_at: *started_at,
                        ..without_exit(*run, EndCause::ShimLost, UNKNOWN_EXIT, now)
                    },
                };
                end(record, declared, ended, None, now);
            }
        }
        ProcessState::Absent => {
            let vanished = record
                .launch
                .as_ref()
                .filter(|launch| launch.stage == LaunchStage::Started && is_news(record, launch.run))
                .map(|launch| (launch.run, launch.boot_id != now.boot_id));
            if let (true, Some((run, rebooted))) = (gone, vanished) {
                let cause = if rebooted { EndCause::Rebooted } else { EndCause::ShimLost };
                end(record, declared, without_exit(run, cause, UNKNOWN_EXIT, now), None, now);
            }
        }
    }
    failed_start(record, declared, observed, now);
}

/// What another boot means for holds and deadlines.
fn cross_boot(record: &mut Record, declared: &Declared, now: &Now) {
    if let Some(hold) = record.hold.as_mut().filter(|hold| hold.boot_id != now.boot_id) {
        if declared.spec.restart_policy == RestartPolicy::Always {
            record.hold = None;
        } else {
            hold.boot_id = now.boot_id.clone();
        }
    }
    if let Some(deadline) = record.next_start.as_mut().filter(|deadline| deadline.boot_id != now.boot_id) {
        // The wall clock may have been set; no wait is ever longer than the longest backoff.
        let left = Duration::try_from(deadline.wall.duration_since(now.wall)).unwrap_or_default();
        let left = left.min(declared.spec.restart.backoff.max.into());
        deadline.boot_id = now.boot_id.clone();
        deadline.mono = now.mono.plus(left);
    }
}

fn is_news(record: &Record, run: Run) -> bool {
    record.ended.as_ref().is_none_or(|ended| ended.run < run)
}

/// A run was seen to have started.
fn started(record: &mut Record, declared: &Declared, observed: &ObservedContainer, run: Run, now: &Now) {
    record.last_run = record.last_run.max(run);
    match record.launch.as_mut() {
        Some(launch) if launch.run == run => {
            if launch.stage != LaunchStage::Started {
                launch.stage = LaunchStage::Started;
                if launch.is_restart {
                    record.restart_count = record.restart_count.saturating_add(1);
                }
                record.renew = false;
                record.next_start = None;
            }
        }
        Some(launch) if launch.run > run => {}
        // It runs, but nobody remembers why: it is taken to be as declared, and kept.
        _ => {
            let present = match &observed.image.state {
                ImageState::Present { digest, .. } => Some(digest.clone()),
                _ => None,
            };
            record.launch = Some(Launch {
                run,
                boot_id: now.boot_id.clone(),
                generation: declared.generation,
                image: record.image.as_ref().map(|image| image.digest.clone()).or(present),
                spec: declared.spec.clone(),
                stage: LaunchStage::Started,
                is_restart: false,
                uses: BTreeSet::new(),
                mounts: Vec::new(),
                post_start_due: false,
            });
            record.renew = false;
        }
    }
}

/// A run has ended: the restart rule is asked, once, and the backoff begins.
fn end(record: &mut Record, declared: &Declared, mut ended: Ended, ran: Option<Duration>, now: &Now) {
    let run = ended.run;
    ended.asked =
        record.hold.is_some() || record.asked_to_stop == Some(run) || record.restart_requested == Some(run);
    ended.failed_hook = record.failed_hook.as_ref().is_some_and(|failed| failed.run == run);
    ended.unhealthy = record.unhealthy.as_ref().filter(|it| it.run == run).map(|it| it.probe);
    let spec = &declared.spec;
    if ended.asked {
        record.retries = 0;
        record.next_start = None;
    } else if ended.cause == EndCause::Rebooted {
        record.next_start = None;
    } else {
        if ran.is_some_and(|ran| ran >= spec.restart.backoff.reset_after.into()) {
            record.retries = 0;
        }
        record.retries = record.retries.saturating_add(1);
        if verdict(spec, &ended, record.retries) == Verdict::Restart {
            let delay = backoff_delay(&spec.restart.backoff, record.retries, &record.uid, run);
            record.next_start = Some(deadline(delay, now));
        }
    }
    record.asked_to_stop = None;
    record.asked_grace_ms = None;
    record.failed_hook = None;
    record.unhealthy = None;
    record.ended = Some(ended);
}

fn failed_start(record: &mut Record, declared: &Declared, observed: &ObservedContainer, now: &Now) {
    let Some(failure) = observed.failure.as_ref().filter(|failure| failure.action == ActionKind::Start)
    else {
        return;
    };
    let Some(launch) = record.launch.as_mut() else { return };
    if launch.stage != LaunchStage::Intended || failure.run != Some(launch.run) {
        return;
    }
    launch.stage = LaunchStage::Failed;
    if record.asked_to_stop == Some(launch.run) || record.hold.is_some() {
        record.asked_to_stop = None;
    } else if matches!(
        failure.reason,
        FailureReason::CreateContainerConfigError
            | FailureReason::RuntimeNotFound
            | FailureReason::DiskPressure
    ) {
        // Nothing was made: it only waits for what it needs, and that is no run.
        record.next_start = Some(deadline(retry_delay(failure.attempts), now));
    } else {
        let (run, is_restart) = (launch.run, launch.is_restart);
        if is_restart {
            record.restart_count = record.restart_count.saturating_add(1);
        }
        let ended = Ended {
            message: failure.message.clone(),
            finished_at: failure.wall,
            ..without_exit(run, EndCause::StartFailed(failure.reason), START_FAILED, now)
        };
        end(record, declared, ended, None, now);
    }
}

fn deadline(delay: Duration, now: &Now) -> Deadline {
    Deadline {
        boot_id: now.boot_id.clone(),
        mono: now.mono.plus(delay),
        wall: now.wall.saturating_add(delay).unwrap_or(now.wall),
    }
}

fn ran_for(exit: &Exit) -> Duration {
    exit.ran_for.unwrap_or_else(|| {
        Duration::try_from(exit.finished_at.duration_since(exit.started_at)).unwrap_or_default()
    })
}

/// Its last message, by `terminationMessagePolicy` as it is declared now.
fn last_words(declared: &Declared, exit: &Exit) -> String {
    let falls_back =
        declared.spec.termination_message_policy == TerminationMessagePolicy::FallbackToLogsOnError;
    if exit.last_words.message.is_empty() && falls_back && exit.code != 0 {
        exit.last_words.log.clone()
    } else {
        exit.last_words.message.clone()
    }
}

fn of_exit(run: Run, cause: EndCause, exit: &Exit, message: String) -> Ended {
    Ended {
        run,
        cause,
        exit_code: exit.code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
        message,
        started_at: Some(exit.started_at),
        finished_at: exit.finished_at,
        asked: false,
        failed_hook: false,
        unhealthy: None,
    }
}

fn without_exit(run: Run, cause: EndCause, exit_code: i32, now: &Now) -> Ended {
    Ended {
        run,
        cause,
        exit_code,
        signal: None,
        oom_killed: false,
        message: String::new(),
        started_at: None,
        finished_at: now.wall,
        asked: false,
        failed_hook: false,
        unhealthy: None,
    }
}
