//! How much a layer may ask of the machine.

/// Bounds for one layer. Layers are hostile: each of these stops one way of exhausting memory, disk or time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed tar stream, and also of all file sizes together (holes included).
    pub max_bytes: u64,
    /// Uncompressed bytes for each compressed one, looked at once `ratio_from` bytes have come.
    pub max_ratio: u64,
    /// Uncompressed bytes up to which any ratio is taken.
    pub ratio_from: u64,
    /// Entries, whiteouts included, and directories that are only implied.
    pub max_entries: u64,
    /// Bytes of memory for what is known only, or set, at a layer's end: names and attributes of directories, whiteouts.
    pub max_held: u64,
    /// Bytes of a path (the kernel's `PATH_MAX` less one).
    pub max_path: usize,
    /// Components of a path.
    pub max_depth: usize,
    /// Bytes of one extended (PAX) header, extended attributes included.
    pub max_pax: u64,
    /// Pieces of data in one sparse file.
    pub max_sparse: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 30,
            max_ratio: 500,
            ratio_from: 1 << 30,
            max_entries: 2_000_000,
            max_held: 256 << 20,
            max_path: 4095,
            max_depth: 256,
            max_pax: 1 << 20,
            max_sparse: 1 << 16,
        }
    }
}
