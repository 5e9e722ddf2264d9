//! Which driver.

use std::path::Path;

use crate::driver::native::Native;
use crate::driver::overlay::Overlay;
use crate::driver::store::Store;
use crate::driver::{Driver, DriverError};

/// The drivers of this version, in the order in which they are tried.
pub const DRIVERS: [&str; 2] = ["overlay", "native"];

/// Names that people know and this version does not have.
const NOT_HERE: [&str; 4] = ["aufs", "btrfs", "devicemapper", "zfs"];

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A driver that other programs or versions have.
    #[error("storage driver {0:?} is not in this version; there are: {there}", there = DRIVERS.join(", "))]
    NotInThisVersion(String),
    /// No such driver.
    #[error("storage driver {0:?} is not known; there are: {there}", there = DRIVERS.join(", "))]
    Unknown(String),
    /// An option that the driver does not have.
    #[error("storage option {option:?} is not known to the driver {driver}, which has {}", options(known))]
    Option {
        /// The option.
        option: String,
        /// The driver.
        driver: &'static str,
        /// Those that it has.
        known: &'static [&'static str],
    },
    /// Several drivers have data, and none was named.
    #[error(
        "there is data of several storage drivers ({0}); name one with --storage-driver, or remove the other's directory"
    )]
    Several(String),
    /// The root directory cannot be made.
    #[error("cannot make the directory {}", .0.display())]
    Root(std::path::PathBuf, #[source] std::io::Error),
    /// The driver does not work here.
    #[error("storage driver {driver} does not work in this directory")]
    Unusable {
        /// The driver.
        driver: &'static str,
        /// Why.
        #[source]
        source: DriverError,
    },
    /// What is there cannot be read.
    #[error("cannot read what storage driver {driver} has")]
    Load {
        /// The driver.
        driver: &'static str,
        /// Why.
        #[source]
        source: DriverError,
    },
}

fn options(known: &[&str]) -> String {
    match known {
        [] => "no options".to_owned(),
        known => format!("these: {}", known.join(", ")),
    }
}

fn open(name: &'static str, root: &Path) -> Result<Box<dyn Driver>, OpenError> {
    let at = root.join(name);
    let opened: Result<Box<dyn Driver>, DriverError> = match name {
        "overlay" => Overlay::open(at).map(|driver| Box::new(driver) as Box<dyn Driver>),
        _ => Native::open(at).map(|driver| Box::new(driver) as Box<dyn Driver>),
    };
    opened.map_err(|source| OpenError::Unusable { driver: name, source })
}

/// The one that is named; else the one that has data; else the first that works.
pub(super) fn select(
    root: &Path,
    wanted: Option<&str>,
    options: &[(String, String)],
) -> Result<Box<dyn Driver>, OpenError> {
    let named = wanted.map(known).transpose()?;
    std::fs::create_dir_all(root).map_err(|error| OpenError::Root(root.to_owned(), error))?;
    let in_use: Vec<&'static str> =
        DRIVERS.into_iter().filter(|name| Store::in_use(&root.join(name))).collect();
    let chosen = match (named, in_use.as_slice()) {
        (Some(name), others) => {
            if let Some(other) = others.iter().find(|other| **other != name) {
                tracing::warn!(
                    driver = name,
                    other,
                    "another storage driver has data here, which stays unused"
                );
            }
            Some(name)
        }
        // What has data is used or nothing is: another driver would show none of the images and containers.
        (None, [only]) => Some(*only),
        (None, []) => None,
        (None, several) => return Err(OpenError::Several(several.join(", "))),
    };
    let driver = match chosen {
        Some(name) => open(name, root)?,
        None => first_that_works(root)?,
    };
    match options.first() {
        Some((option, _)) => {
            Err(OpenError::Option { option: option.clone(), driver: driver.name(), known: &[] })
        }
        None => Ok(driver),
    }
}

fn known(name: &str) -> Result<&'static str, OpenError> {
    match DRIVERS.into_iter().find(|known| *known == name) {
        Some(known) => Ok(known),
        None if NOT_HERE.contains(&name) => Err(OpenError::NotInThisVersion(name.to_owned())),
        None => Err(OpenError::Unknown(name.to_owned())),
    }
}

fn first_that_works(root: &Path) -> Result<Box<dyn Driver>, OpenError> {
    let mut last = None;
    for name in DRIVERS {
        match open(name, root) {
            Ok(driver) => return Ok(driver),
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(driver = name, why, "this storage driver does not work here");
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| OpenError::Unknown(String::new())))
}
