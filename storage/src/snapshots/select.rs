//! Which driver.

use std::path::Path;

use crate::driver::btrfs::{self, Btrfs};
use crate::driver::devicemapper::{DeviceMapper, KNOWN_OPTIONS};
use crate::driver::native::Native;
use crate::driver::options::{self, OptionError};
use crate::driver::overlay::Overlay;
use crate::driver::store::Store;
use crate::driver::{Driver, DriverError};

type Opened = Result<Box<dyn Driver>, DriverError>;

/// A driver, as it is chosen.
struct Entry {
    name: &'static str,
    /// Its options.
    known: &'static [&'static str],
    /// Whether it works in a directory of its own there. It costs little, and makes nothing that would have to be undone.
    probe: fn(&Path) -> Result<(), DriverError>,
    /// Opens it with options whose names are known.
    open: fn(&Path, &[(String, String)]) -> Opened,
}

/// The drivers, in the order in which they are tried.
static ENTRIES: [Entry; 4] = [
    Entry {
        name: "overlay",
        known: &[],
        // Opening it is a mount, which shows it.
        probe: |at| Overlay::open(at.to_owned()).map(drop),
        open: |at, _| boxed(Overlay::open(at.to_owned())),
    },
    Entry {
        name: "devicemapper",
        known: KNOWN_OPTIONS,
        probe: DeviceMapper::probe,
        open: |at, options| boxed(DeviceMapper::open(at, options)),
    },
    Entry {
        name: "btrfs",
        known: btrfs::KNOWN_OPTIONS,
        probe: btrfs::probe,
        open: |at, options| boxed(Btrfs::open(at.to_owned(), options)),
    },
    Entry { name: "native", known: &[], probe: |_| Ok(()), open: |at, _| boxed(Native::open(at.to_owned())) },
];

/// The drivers of this version, in the order in which they are tried.
pub const DRIVERS: [&str; ENTRIES.len()] = {
    let mut names = [""; ENTRIES.len()];
    let mut next = 0;
    while next < ENTRIES.len() {
        names[next] = ENTRIES[next].name;
        next += 1;
    }
    names
};

/// Names that people know and this version does not have.
const NOT_HERE: [&str; 2] = ["aufs", "zfs"];

fn boxed(opened: Result<impl Driver + 'static, DriverError>) -> Opened {
    opened.map(|driver| Box::new(driver) as Box<dyn Driver>)
}

/// Which driver it is, and why not another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The driver.
    pub driver: &'static str,
    /// What made it the one.
    pub chosen: Chosen,
    /// The others, in the order in which they are tried.
    pub passed_over: Vec<PassedOver>,
    /// Those of the others that have data here, which stays unused.
    pub unused: Vec<&'static str>,
}

/// What made a driver the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// It was named.
    Named,
    /// It has data here.
    InUse,
    /// It is the first that works here.
    FirstThatWorks,
}

/// A driver that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The driver.
    pub driver: &'static str,
    /// Why.
    pub why: String,
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.driver, self.why)
    }
}

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
    /// An option that the driver does not take.
    #[error(transparent)]
    Option(#[from] OptionError),
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
    /// None does.
    #[error("no storage driver works in this directory ({})", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoneWorks(Vec<PassedOver>),
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

impl Entry {
    fn open(&self, root: &Path, options: &[(String, String)]) -> Result<Box<dyn Driver>, OpenError> {
        options::check(self.name, self.known, options)?;
        (self.open)(&root.join(self.name), options).map_err(|source| match source {
            DriverError::Option(error) => OpenError::Option(error),
            source => OpenError::Unusable { driver: self.name, source },
        })
    }
}

/// The one that is named; else the one that has data; else the first that works.
pub(super) fn select(
    root: &Path,
    wanted: Option<&str>,
    options: &[(String, String)],
) -> Result<(Box<dyn Driver>, Selection), OpenError> {
    let named = wanted.map(known).transpose()?;
    std::fs::create_dir_all(root).map_err(|error| OpenError::Root(root.to_owned(), error))?;
    let in_use: Vec<&'static Entry> =
        ENTRIES.iter().filter(|entry| Store::in_use(&root.join(entry.name))).collect();
    let (entry, chosen) = match (named, in_use.as_slice()) {
        (Some(entry), _) => (entry, Chosen::Named),
        // What has data is used or nothing is: another driver would show none of the images and containers.
        (None, [only]) => (*only, Chosen::InUse),
        (None, []) => return first_that_works(&ENTRIES, root, options),
        (None, several) => {
            let names: Vec<_> = several.iter().map(|entry| entry.name).collect();
            return Err(OpenError::Several(names.join(", ")));
        }
    };
    let unused: Vec<_> = in_use.iter().map(|other| other.name).filter(|other| *other != entry.name).collect();
    for other in &unused {
        tracing::warn!(
            driver = entry.name,
            other,
            "another storage driver has data here, which stays unused"
        );
    }
    let why = |other: &Entry| match chosen {
        _ if unused.contains(&other.name) => {
            format!("it has data here, which stays unused: {} was asked for", entry.name)
        }
        Chosen::InUse => format!("{} has data here", entry.name),
        _ => format!("{} was asked for", entry.name),
    };
    let passed_over = ENTRIES
        .iter()
        .filter(|other| other.name != entry.name)
        .map(|other| PassedOver { driver: other.name, why: why(other) })
        .collect();
    let driver = entry.open(root, options)?;
    Ok((driver, Selection { driver: entry.name, chosen, passed_over, unused }))
}

fn known(name: &str) -> Result<&'static Entry, OpenError> {
    match ENTRIES.iter().find(|known| known.name == name) {
        Some(known) => Ok(known),
        None if NOT_HERE.contains(&name) => Err(OpenError::NotInThisVersion(name.to_owned())),
        None => Err(OpenError::Unknown(name.to_owned())),
    }
}

/// Options are for the one that is found: one that it does not have is an error, not a reason to go on.
fn first_that_works(
    entries: &[Entry],
    root: &Path,
    options: &[(String, String)],
) -> Result<(Box<dyn Driver>, Selection), OpenError> {
    let mut passed_over = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let opened = match (entry.probe)(&root.join(entry.name)) {
            Ok(()) => entry.open(root, options),
            Err(source) => Err(OpenError::Unusable { driver: entry.name, source }),
        };
        match opened {
            Ok(driver) => {
                passed_over.extend(entries[index + 1..].iter().map(|other| PassedOver {
                    driver: other.name,
                    why: format!("{} works here and comes first", entry.name),
                }));
                let chosen = Chosen::FirstThatWorks;
                return Ok((
                    driver,
                    Selection { driver: entry.name, chosen, passed_over, unused: Vec::new() },
                ));
            }
            Err(OpenError::Unusable { driver, source }) => {
                let why = chain(&source);
                tracing::warn!(driver, why, "this storage driver does not work here");
                passed_over.push(PassedOver { driver, why });
            }
            Err(error) => return Err(error),
        }
    }
    Err(OpenError::NoneWorks(passed_over))
}

/// An error with what caused it, as one text.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
