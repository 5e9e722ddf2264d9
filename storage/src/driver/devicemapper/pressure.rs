//! Why a pool takes no new work.

use crate::dm::status::{Mode, Working};
use crate::driver::{Fill, Pressure};

#[cfg(test)]
mod tests;

/// `floor`: percent of the data and of the metadata that are kept free.
pub(super) fn of(name: &str, working: &Working, data: Fill, metadata: Fill, floor: u8) -> Option<Pressure> {
    let pool = name.to_owned();
    if working.needs_check {
        let why = format!(
            "its metadata needs a check: stop all containers and the agent, and start it again; it runs `thin_check \
             --clear-needs-check-flag` where that is installed (thin-provisioning-tools), and its log says whether `thin_repair` \
             has to mend the metadata of {name} first"
        );
        return Some(Pressure::ReadOnly { pool, why });
    }
    match working.mode {
        Mode::ReadWrite => {}
        Mode::OutOfDataSpace => {
            let why = "there is no room for data: remove images or containers, or make room below it; it goes on by itself";
            return Some(Pressure::ReadOnly { pool, why: why.to_owned() });
        }
        Mode::ReadOnly => {
            let why = "the kernel has made it so, for want of room for metadata or after an error of the disk: see its log, make \
                       room, then start the agent again when no container runs";
            return Some(Pressure::ReadOnly { pool, why: why.to_owned() });
        }
    }
    let low = |fill: Fill| {
        u128::from(fill.total.saturating_sub(fill.used)) * 100 < u128::from(fill.total) * u128::from(floor)
    };
    if low(data) {
        Some(Pressure::DataLow { pool, fill: data, floor })
    } else if low(metadata) {
        Some(Pressure::MetadataLow { pool, fill: metadata, floor })
    } else {
        None
    }
}

/// Everything that is written waits.
pub(super) fn suspended(name: &str) -> Pressure {
    let why = format!("somebody holds it still, and all writers wait: `dmsetup resume {name}`");
    Pressure::ReadOnly { pool: name.to_owned(), why }
}

/// It does not answer any more.
pub(super) fn failed(name: &str) -> Pressure {
    let why = "the kernel cannot read or write its metadata: see its log, repair the disk, run `thin_repair`, and start the agent \
               again";
    Pressure::Failed { pool: name.to_owned(), why: why.to_owned() }
}
