//! Quotas of processor time on version 1, where the kernel takes none above that of a group around it, nor below that of a group
//! within (`EINVAL`). On version 2 all of them are taken and the least counts. So it is here: what would not count is not written.

use std::path::Path;

use rustix::io::Errno;

use super::{CgroupError, write};

const QUOTA: &str = "cpu.cfs_quota_us";
const PERIOD: &str = "cpu.cfs_period_us";
/// The period of a new group, in microseconds.
pub(super) const NEW_PERIOD_US: u64 = 100_000;
/// The least that the kernel takes, in microseconds.
const LEAST_US: u64 = 1000;

/// So much processor time in each period, in microseconds; without a quota there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) quota: Option<u64>,
    pub(super) period: u64,
}

impl Quota {
    /// The most in its own period that is not above `bound`.
    fn within(self, bound: Self) -> Self {
        let Some(most) = bound.quota else { return self };
        let most = u128::from(most) * u128::from(self.period) / u128::from(bound.period.max(1));
        let most = u64::try_from(most).unwrap_or(u64::MAX).max(LEAST_US);
        Self { quota: Some(self.quota.map_or(most, |quota| quota.min(most))), ..self }
    }

    /// What a group has; `None` for a directory that is no group with quotas, or not there any more.
    fn read(dir: &Path) -> Option<Self> {
        let number = |file: &str| std::fs::read_to_string(dir.join(file)).ok()?.trim().parse::<i64>().ok();
        // Unlimited is -1.
        Some(Self { quota: u64::try_from(number(QUOTA)?).ok(), period: u64::try_from(number(PERIOD)?).ok()? })
    }

    /// Gives a group this one as it is. The period of a new group is known: a write less.
    pub(super) fn write(self, dir: &Path, period_too: bool) -> Result<(), CgroupError> {
        if period_too {
            write(&dir.join(PERIOD), &self.period.to_string())?;
        }
        write(&dir.join(QUOTA), &self.quota.map_or("-1".to_owned(), |quota| quota.to_string()))
    }

    /// Gives a group this one as far as the groups around it have as much; groups within get no more from then on.
    pub(super) fn set(self, dir: &Path, period_too: bool) -> Result<(), CgroupError> {
        match self.write(dir, period_too) {
            Err(CgroupError::Io { source, .. })
                if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            other => return other,
        }
        let fits = dir.ancestors().skip(1).map_while(Self::read).fold(self, Self::within);
        if fits != self {
            tracing::warn!(
                group = %dir.display(), asked_us = self.quota, given_us = fits.quota, period_us = fits.period,
                "a limit on processor time is above that of a group around it, and cannot be more than that (cgroup v1)"
            );
        }
        lower_within(dir, fits);
        fits.write(dir, period_too)
    }
}

/// Lowers what groups within have to a bound, innermost first. What cannot be lowered is told by whoever sets the bound.
fn lower_within(dir: &Path, bound: Quota) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().filter(|it| it.file_type().is_ok_and(|it| it.is_dir())).map(|it| it.path())
    {
        lower_within(&path, bound);
        let Some(has) = Quota::read(&path).filter(|has| has.quota.is_some()) else { continue };
        let fits = has.within(bound);
        if fits != has {
            let lowered = fits.write(&path, false);
            tracing::warn!(
                group = %path.display(), had_us = has.quota, given_us = fits.quota, period_us = fits.period, done = lowered.is_ok(),
                "a limit on processor time is lowered to that of a group around it (cgroup v1)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(quota: u64, period: u64) -> Quota {
        Quota { quota: Some(quota), period }
    }

    #[test]
    fn the_least_counts_whatever_the_periods() {
        let none = Quota { quota: None, period: 100_000 };
        for (wanted, bound, fits) in [
            (quota(200_000, 100_000), quota(100_000, 100_000), quota(100_000, 100_000)),
            (quota(50_000, 100_000), quota(100_000, 100_000), quota(50_000, 100_000)),
            (quota(20_000, 10_000), quota(150_000, 100_000), quota(15_000, 10_000)),
            (quota(20_000, 10_000), none, quota(20_000, 10_000)),
            (none, quota(30_000, 50_000), quota(60_000, 100_000)),
            (quota(5_000, 10_000), quota(1_000, 1_000_000), quota(1_000, 10_000)),
            (quota(u64::MAX - 1, 1_000_000), quota(u64::MAX - 1, 1_000), quota(u64::MAX - 1, 1_000_000)),
        ] {
            assert_eq!(wanted.within(bound), fits, "{wanted:?} in {bound:?}");
        }
    }
}
