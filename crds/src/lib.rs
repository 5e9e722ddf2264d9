//! The kinds of stower: what a document may say, what is assumed where it says nothing, and what is refused.
//!
//! ```text
//! bytes ─► yaml::read_documents ─► Document{value, lines} ─► admit ─► Object ─► sources, controllers
//!              (budgets)                                      │ unknown fields, defaults, schema, CEL, support table
//!                                                             └► [FieldError{path, message}] ─► line:column
//! ```
//!
//! Everything is a pure function of its input: no file, clock or socket is touched here.

mod admit;
mod config;
mod container;
mod crd;
mod data_container;
mod duration;
mod meta;
mod quantity;
mod signal;
mod text;
mod volume;
mod yaml;

pub use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

pub use admit::{AdmitContext, FieldError, Object, admit, prepare, read_accepted, spec_changed};
pub use config::{ConfigData, config_map_data, secret_data};
pub use container::*;
pub use crd::{crd, crd_yaml};
pub use data_container::{
    DataContainer, DataContainerSpec, DataContainerStatus, DataVolume, DataVolumeStatus,
};
pub use duration::{Duration, ParseDurationError};
pub use meta::{Generation, Kind, Name, NameError, Namespace, ObjectKey, ParseKindError, Time, Uid};
pub use quantity::{ParseQuantityError, Quantity};
pub use signal::{ParseSignalError, Signal};
pub use volume::{Owner, ReclaimPolicy, Volume, VolumeDriver, VolumePhase, VolumeSpec, VolumeStatus};
pub use yaml::{Document, Limits, Location, ParseError, read_documents, to_yaml};

/// The API group of the kinds.
pub const GROUP: &str = "stower.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// The finalizer of the agent whose node an object of a cluster is on: it stays until what it stands for is gone from the node.
pub const FINALIZER: &str = "stower.dev/agent";
/// Group and version, as `apiVersion` in documents.
pub const API_VERSION: &str = "stower.dev/v1alpha1";
