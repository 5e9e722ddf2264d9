//! Images as they come, and root filesystems as they are run.
//!
//! ```text
//! Reference ─► registry ─┐                              ┌─► Image (config, chain id)
//!             layout  ───┼─► pull ─► content (blobs) ───┤
//!             archive ───┘                              └─► layers ─► driver ─► snapshots ─► Mounts
//!                                                                                    │
//!                                                        ImageTree ◄── open_tree ◄───┘
//!                                                            └─► fill ─► Volumes ─► activate ─► Mount
//!
//! snapshot ─► diff (two trees, one walk) ─┬─► changes, export (tar)
//!                                         └─► layer ─► commit (new Image)     content ─► save (archive)
//! ```
//!
//! Bytes of images are hostile: nothing is believed before its digest has been verified, and nothing that an image
//! says chooses anything on the host. This crate knows nothing of Kubernetes or of reconciling.

mod archive;
mod collect;
mod commit;
mod content;
pub mod copy;
mod diff;
mod digest;
mod dm;
mod driver;
mod ext4;
#[cfg(any(feature = "failpoints", debug_assertions))]
pub mod failpoint;
#[cfg(not(any(feature = "failpoints", debug_assertions)))]
mod failpoint;
#[cfg(feature = "fuzzing")]
#[allow(missing_docs, clippy::missing_panics_doc)]
pub mod fuzzing;
mod image;
mod layer;
mod limits;
mod loopdev;
mod mount;
mod platform;
mod pull;
mod reference;
mod registry;
mod save;
mod snapshots;
mod storage;
#[cfg(feature = "testing")]
#[allow(missing_docs, clippy::missing_panics_doc)]
pub mod testsuite;
mod view;
mod volumes;

pub use archive::ImportError;
pub use collect::{CollectError, Collected, Garbage, ImageLease, Inventory, PartId, StoredImage};
pub use commit::{CommitImageError, CommitRequest};
pub use content::{ContentError, ContentStore, Swept};
pub use diff::{Change, ChangeKind, DiffError, Trees};
pub use digest::{ChainId, DiffId, Digest, Hasher, ParseDigestError, VerifyReader, WrongContent};
pub use driver::options::OptionError;
pub use driver::{
    Driver, DriverError, DriverStatus, Fill, Found, LayerRecord, LimitChange, ParseKeyError, PoolStatus,
    Pressure, Reread, SnapshotKey, SnapshotKind, SnapshotLimit, SnapshotRecord, Unpack, Usage,
};
pub use ext4::Ext4Error;
pub use image::{
    ConfigChange, ConfigError, Descriptor, Encoding, Image, ImageConfig, Layer, LoadError, ManifestError,
    ParseChangeError, media,
};
pub use layer::Stream;
pub use layer::{Compression, LayerBlob, LayerError, OpenBlob, UnpackLimits};
pub use limits::Limits;
pub use mount::{Mount, Mounts, detached};
pub use platform::{ParsePlatformError, Platform};
pub use pull::{BlobState, Metrics, Progress, ProgressEvent, PullError, PullRequest};
pub use reference::{DEFAULT_REGISTRY, ParseReferenceError, Reference, valid_registry};
pub use registry::{Credential, Credentials, ParseCredentialsError, RegistryError, RegistryOptions};
pub use save::SaveError;
pub use snapshots::{
    Chosen, CommitError, DRIVERS, OpenError, PassedOver, PrepareError, RemoveLayerError, Selection,
    SnapshotError, Snapshots, UnpackError,
};
pub use storage::{ImageName, OpenStorageError, RemoveError, Removed, Storage, StorageOptions};
pub use view::{ImageTree, OpenTreeError};
pub use volumes::{
    ActiveVolume, CapacityKind, FillSource, ParseVolumeKeyError, VolumeDriver, VolumeError, VolumeKey,
    VolumeList, VolumeOptions, VolumeRecord, VolumeUsage, Volumes,
};
