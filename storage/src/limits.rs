//! Bounds on what an image may ask for.

/// Bounds on what an image may ask for. Every one is checked before the resource is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest or an index. Registries serve at most 4 MiB (distribution specification, "Pushing
    /// Manifests").
    pub manifest_bytes: u64,
    /// Bytes of an image configuration.
    pub config_bytes: u64,
    /// Manifests in an index.
    pub index_entries: usize,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes of one layer as it is transferred.
    pub layer_bytes: u64,
    /// Bytes of all layers of one image as they are transferred.
    pub image_bytes: u64,
    /// Blobs of one image that are transferred at once.
    pub concurrent_downloads: usize,
    /// Entries of an archive that is imported.
    pub archive_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            index_entries: 1024,
            layers: 500,
            layer_bytes: 64 << 30,
            image_bytes: 256 << 30,
            concurrent_downloads: 4,
            archive_entries: 65_536,
        }
    }
}
