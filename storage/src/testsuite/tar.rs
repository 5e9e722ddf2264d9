//! Writes layers.

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A regular file.
    File(Vec<u8>),
    /// A regular file of this size with data at these offsets.
    Sparse(u64, Vec<(u64, Vec<u8>)>),
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// Another name of a file.
    Hardlink(Vec<u8>),
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// As it stands in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: ItemKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Item {
    fn new(path: impl AsRef<[u8]>, kind: ItemKind, mode: u32) -> Self {
        let path = path.as_ref().to_vec();
        Self { path, kind, mode, uid: 0, gid: 0, mtime: (1_500_000_000, 0), xattrs: Vec::new() }
    }

    /// A regular file.
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self::new(path, ItemKind::File(content.as_ref().to_vec()), 0o644)
    }

    /// A directory.
    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, ItemKind::Dir, 0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(path, ItemKind::Symlink(target.as_ref().to_vec()), 0o777)
    }

    /// A hard link.
    pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(path, ItemKind::Hardlink(target.as_ref().to_vec()), 0o644)
    }

    /// What removes a path of lower layers.
    pub fn whiteout(path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        let slash = if dir.is_empty() { "" } else { "/" };
        Self::file(format!("{dir}{slash}.wh.{name}"), b"")
    }

    /// What hides all that lower layers have in a directory.
    pub fn opaque(dir: &str) -> Self {
        Self::file(format!("{dir}/.wh..wh..opq"), b"")
    }

    /// Any other kind.
    pub fn special(path: impl AsRef<[u8]>, kind: ItemKind) -> Self {
        Self::new(path, kind, 0o600)
    }

    /// With other permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With another owner and group.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// With another time of modification.
    #[must_use]
    pub fn mtime(mut self, seconds: i64, nanos: u32) -> Self {
        self.mtime = (seconds, nanos);
        self
    }

    /// With an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }
}

/// A whole archive of `items`.
pub fn archive(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        append(&mut out, item);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// One entry, without the end of an archive.
pub fn append(out: &mut Vec<u8>, item: &Item) {
    let mut pax = Vec::new();
    let mut data = Vec::new();
    let mut link: &[u8] = b"";
    let mut device = (0, 0);
    let kind = match &item.kind {
        ItemKind::File(content) => {
            data.clone_from(content);
            b'0'
        }
        ItemKind::Sparse(size, pieces) => {
            record(&mut pax, "GNU.sparse.major", b"1");
            record(&mut pax, "GNU.sparse.minor", b"0");
            record(&mut pax, "GNU.sparse.name", &item.path);
            record(&mut pax, "GNU.sparse.realsize", size.to_string().as_bytes());
            let mut map = format!("{}\n", pieces.len());
            for (offset, content) in pieces {
                map += &format!("{offset}\n{}\n", content.len());
            }
            data.extend_from_slice(map.as_bytes());
            data.resize(data.len().next_multiple_of(512), 0);
            for (_, content) in pieces {
                data.extend_from_slice(content);
            }
            b'0'
        }
        ItemKind::Dir => b'5',
        ItemKind::Symlink(target) => {
            link = target;
            b'2'
        }
        ItemKind::Hardlink(target) => {
            link = target;
            b'1'
        }
        ItemKind::Char(major, minor) => {
            device = (*major, *minor);
            b'3'
        }
        ItemKind::Block(major, minor) => {
            device = (*major, *minor);
            b'4'
        }
        ItemKind::Fifo => b'6',
    };
    if item.path.len() > 100 {
        record(&mut pax, "path", &item.path);
    }
    if link.len() > 100 {
        record(&mut pax, "linkpath", link);
    }
    if item.mtime.1 != 0 || item.mtime.0 < 0 {
        record(&mut pax, "mtime", format!("{}.{:09}", item.mtime.0, item.mtime.1).as_bytes());
    }
    for (name, value) in &item.xattrs {
        record(&mut pax, &format!("SCHILY.xattr.{name}"), value);
    }
    if !pax.is_empty() {
        block(out, &header(b"pax", b'x', pax.len()), &pax);
    }
    let mut head = header(&item.path[..item.path.len().min(100)], kind, data.len());
    head[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    octal(&mut head[100..108], u64::from(item.mode));
    octal(&mut head[108..116], u64::from(item.uid));
    octal(&mut head[116..124], u64::from(item.gid));
    octal(&mut head[136..148], item.mtime.0.max(0).unsigned_abs());
    octal(&mut head[329..337], device.0.into());
    octal(&mut head[337..345], device.1.into());
    block(out, &head, &data);
}

/// An ustar header with this name, type and size.
pub fn header(name: &[u8], kind: u8, size: usize) -> [u8; 512] {
    let mut head = [0u8; 512];
    head[..name.len()].copy_from_slice(name);
    octal(&mut head[100..108], 0o644);
    octal(&mut head[108..116], 0);
    octal(&mut head[116..124], 0);
    octal(&mut head[124..136], u64::try_from(size).unwrap_or(0));
    octal(&mut head[136..148], 0);
    head[156] = kind;
    head[257..265].copy_from_slice(b"ustar\x0000");
    head
}

/// A header with its checksum, and its data.
pub fn block(out: &mut Vec<u8>, header: &[u8; 512], data: &[u8]) {
    let mut head = *header;
    head[148..156].fill(b' ');
    let sum: u64 = head.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut head[148..155], sum);
    out.extend_from_slice(&head);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// A record of an extended header.
pub fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length = body + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{value:0width$o}").as_bytes());
    field[width] = 0;
}
