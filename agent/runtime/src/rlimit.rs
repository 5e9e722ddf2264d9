//! Resource limits (`getrlimit(2)`).

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use crate::error::{CompileError, Failure, FailureKind};
use crate::job::RlimitJob;

fn resource(kind: PosixRlimitType) -> (&'static str, u32) {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => ("RLIMIT_CPU", libc::RLIMIT_CPU),
        T::RlimitFsize => ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
        T::RlimitData => ("RLIMIT_DATA", libc::RLIMIT_DATA),
        T::RlimitStack => ("RLIMIT_STACK", libc::RLIMIT_STACK),
        T::RlimitCore => ("RLIMIT_CORE", libc::RLIMIT_CORE),
        T::RlimitRss => ("RLIMIT_RSS", libc::RLIMIT_RSS),
        T::RlimitNproc => ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
        T::RlimitNofile => ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
        T::RlimitMemlock => ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
        T::RlimitAs => ("RLIMIT_AS", libc::RLIMIT_AS),
        T::RlimitLocks => ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
        T::RlimitSigpending => ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
        T::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        T::RlimitNice => ("RLIMIT_NICE", libc::RLIMIT_NICE),
        T::RlimitRtprio => ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
        T::RlimitRttime => ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
    }
}

/// Limits in the order they are set: the defaults that the specification does not name, then its own.
pub(crate) fn compile(
    defaults: &[PosixRlimit],
    asked: &[PosixRlimit],
) -> Result<Vec<RlimitJob>, CompileError> {
    let mut jobs: Vec<RlimitJob> = Vec::with_capacity(defaults.len() + asked.len());
    for (limit, required) in asked.iter().map(|l| (l, true)).chain(defaults.iter().map(|l| (l, false))) {
        let (name, number) = resource(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(CompileError::invalid(
                "process.rlimits",
                format!("{name}: the soft limit {} is above the hard limit {}", limit.soft(), limit.hard()),
            ));
        }
        match jobs.iter().find(|job| job.resource == number) {
            Some(_) if required => {
                return Err(CompileError::invalid("process.rlimits", format!("{name} is given twice")));
            }
            Some(_) => {}
            None => jobs.push(RlimitJob {
                name: name.to_owned(),
                resource: number,
                soft: limit.soft(),
                hard: limit.hard(),
                required,
            }),
        }
    }
    Ok(jobs)
}

/// Sets the limits of this process.
pub(crate) fn apply(jobs: &[RlimitJob]) -> Result<(), Failure> {
    for job in jobs {
        match crate::start::sys::setrlimit(job.resource, job.soft, job.hard) {
            Ok(()) => {}
            Err(_) if !job.required => {}
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                return Err(Failure {
                    stage: "rlimit".to_owned(),
                    message: format!(
                        "{}: a hard limit of {} is above the agent's own; the agent lacks CAP_SYS_RESOURCE to raise it, \
                         so lower the limit or give it that capability",
                        job.name, job.hard
                    ),
                    errno: libc::EPERM,
                    kind: FailureKind::MissingCapability,
                });
            }
            Err(e) => return Err(Failure::errno("rlimit", format_args!("setting {}", job.name), e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
        oci_spec::runtime::PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard).build().unwrap()
    }

    #[test]
    fn an_asked_limit_wins_over_its_default_and_stays_required() {
        let defaults = [limit(PosixRlimitType::RlimitNofile, 1, 1), limit(PosixRlimitType::RlimitCore, 2, 2)];
        let jobs = compile(&defaults, &[limit(PosixRlimitType::RlimitNofile, 5, 6)]).unwrap();
        let seen: Vec<_> = jobs.iter().map(|j| (j.name.as_str(), j.soft, j.hard, j.required)).collect();
        assert_eq!(seen, [("RLIMIT_NOFILE", 5, 6, true), ("RLIMIT_CORE", 2, 2, false)]);
    }

    #[test]
    fn a_soft_limit_above_the_hard_one_and_a_double_are_refused() {
        let e = compile(&[], &[limit(PosixRlimitType::RlimitCpu, 6, 5)]).unwrap_err();
        assert!(e.to_string().contains("RLIMIT_CPU: the soft limit 6 is above"), "{e}");
        let twice = [limit(PosixRlimitType::RlimitCpu, 5, 5), limit(PosixRlimitType::RlimitCpu, 5, 5)];
        assert!(compile(&[], &twice).unwrap_err().to_string().contains("twice"));
    }
}
