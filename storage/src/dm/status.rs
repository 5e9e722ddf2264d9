//! What thin pools and thin devices say of themselves (kernel documentation, device-mapper/thin-provisioning.rst), as
//! types.

use std::str::FromStr;

#[cfg(test)]
mod tests;

/// The text is no status of that kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the status of a {kind}: {text:?}")]
pub(crate) struct ParseStatusError {
    kind: &'static str,
    text: String,
}

/// Blocks in use, and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) used: u64,
    pub(crate) total: u64,
}

/// What may be done with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All.
    ReadWrite,
    /// No block that is new: there is no room for data. What is removed makes room.
    OutOfDataSpace,
    /// Nothing that changes its metadata.
    ReadOnly,
}

/// A thin pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Its metadata cannot be read or written any more.
    Fail,
    /// The kernel could not tell.
    Error,
    /// It works, more or less.
    Works(Working),
}

/// A thin pool that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Working {
    /// A number that is its user's.
    pub(crate) transaction: u64,
    /// In blocks of 4 KiB.
    pub(crate) metadata: Blocks,
    /// In blocks of the pool's own size.
    pub(crate) data: Blocks,
    /// The block of metadata that is held for reading.
    pub(crate) held_root: Option<u64>,
    pub(crate) mode: Mode,
    /// Whether what is discarded is discarded below too.
    pub(crate) passdown: bool,
    /// Whether a write that finds no room fails at once, rather than waits for a while.
    pub(crate) error_if_no_space: bool,
    /// Whether its metadata must be checked first.
    pub(crate) needs_check: bool,
}

impl FromStr for Pool {
    type Err = ParseStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "Fail" => Ok(Self::Fail),
            "Error" => Ok(Self::Error),
            other => working(other)
                .map(Self::Works)
                .ok_or_else(|| ParseStatusError { kind: "thin pool", text: text.to_owned() }),
        }
    }
}

fn working(text: &str) -> Option<Working> {
    let mut words = text.split_ascii_whitespace();
    let transaction = words.next()?.parse().ok()?;
    let metadata = blocks(words.next()?)?;
    let data = blocks(words.next()?)?;
    let held_root = match words.next()? {
        "-" => None,
        number => Some(number.parse().ok()?),
    };
    let mut it = Working {
        transaction,
        metadata,
        data,
        held_root,
        mode: Mode::ReadWrite,
        passdown: false,
        error_if_no_space: false,
        needs_check: false,
    };
    let mut mode = None;
    // Kernels differ in how many of these there are, and end with a number.
    for word in words {
        match word {
            "rw" => mode = Some(Mode::ReadWrite),
            "ro" => mode = Some(Mode::ReadOnly),
            "out_of_data_space" => mode = Some(Mode::OutOfDataSpace),
            "discard_passdown" => it.passdown = true,
            "error_if_no_space" => it.error_if_no_space = true,
            "needs_check" => it.needs_check = true,
            _ => {}
        }
    }
    it.mode = mode?;
    Some(it)
}

fn blocks(text: &str) -> Option<Blocks> {
    let (used, total) = text.split_once('/')?;
    Some(Blocks { used: used.parse().ok()?, total: total.parse().ok()? })
}

/// A thin device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thin {
    /// Its pool has failed.
    Fail,
    /// The kernel could not tell.
    Error,
    /// Nothing is known of it.
    Unknown,
    /// It works.
    Works {
        /// Sectors that have a block, whoever shares it.
        mapped: u64,
        /// The last of them.
        highest: Option<u64>,
    },
}

impl FromStr for Thin {
    type Err = ParseStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseStatusError { kind: "thin device", text: text.to_owned() };
        match text.trim() {
            "Fail" => Ok(Self::Fail),
            "-" => Ok(Self::Unknown),
            // It may follow what was told before the error.
            other if other.ends_with("Error") => Ok(Self::Error),
            other => {
                let (mapped, highest) = other.split_once(' ').ok_or_else(bad)?;
                let highest = match highest {
                    "-" => None,
                    number => Some(number.parse().map_err(|_| bad())?),
                };
                Ok(Self::Works { mapped: mapped.parse().map_err(|_| bad())?, highest })
            }
        }
    }
}
