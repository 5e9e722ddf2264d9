//! What the workload and the look at its remains share.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use stower_storage::testsuite::{Item, Tree, tar, tree};
use stower_storage::{
    ActiveVolume, ChainId, Image, Mount, Platform, SnapshotKey, Snapshots, Storage, StorageOptions, Volumes,
    detached,
};

use crate::support::{Built, Flavour, descriptor, image, noise, options};

/// A thin pool that is made fast.
const SMALL_POOL: [(&str, &str); 3] =
    [("dm.loopdatasize", "768M"), ("dm.loopmetadatasize", "16M"), ("dm.basesize", "64M")];

/// Where it happens.
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) beside: PathBuf,
    pub(crate) driver: String,
}

impl Place {
    /// As the agent opens it at its start.
    pub(crate) fn open(&self) -> Result<(Storage, Volumes), Box<dyn std::error::Error>> {
        let mut options = StorageOptions { driver: Some(self.driver.clone()), ..options(&self.root, &[]) };
        if self.driver == "devicemapper" {
            options.driver_options = SMALL_POOL.map(|(name, value)| (name.into(), value.into())).to_vec();
        }
        let storage = Storage::open(options)?;
        let volumes = Volumes::open(self.root.join("volumes"), self.beside.join("mounts"))?;
        Ok((storage, volumes))
    }

    /// A layout with the image of a round, made at the first use.
    pub(crate) fn layout(&self, seed: u64, round: u64) -> PathBuf {
        let dir = self.beside.join(format!("layout-{seed}-{round}"));
        if !dir.join("index.json").exists() {
            whole(&dir, &built(seed, round));
        }
        dir
    }

    /// A layout with an image that has the layers of a round's under another configuration: nothing is unpacked for it.
    pub(crate) fn edited_layout(&self, seed: u64, round: u64) -> PathBuf {
        let dir = self.beside.join(format!("edited-{seed}-{round}"));
        let mut built = built(seed, round);
        let (config, (_, manifest)) = (built.blobs.last_mut().unwrap(), &mut built.manifests[0]);
        let mut edited: serde_json::Value = serde_json::from_slice(config).unwrap();
        edited["author"] = "powercut".into();
        *config = edited.to_string().into_bytes();
        let mut naming: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        naming["config"] = descriptor(naming["config"]["mediaType"].as_str().unwrap(), config);
        *manifest = naming.to_string().into_bytes();
        whole(&dir, &built);
        dir
    }

    /// Where it is kept what a volume has that was filled from an image.
    pub(crate) fn fill_of(&self, image: &str) -> PathBuf {
        self.beside.join(format!("fill-{}", image.replace(':', "-")))
    }
}

/// All of it or nothing: the power may be cut here too.
fn whole(dir: &Path, built: &Built) {
    let aside = dir.with_extension("new");
    for old in [&aside, dir] {
        std::fs::remove_dir_all(old).or_else(|error| if old.exists() { Err(error) } else { Ok(()) }).unwrap();
    }
    built.write_layout(&aside, "unused");
    std::fs::rename(aside, dir).unwrap();
}

fn built(seed: u64, round: u64) -> Built {
    let layers: Vec<_> = layers(seed, round).iter().map(|items| tar::archive(items)).collect();
    image(&Platform::host().to_string(), &layers, Flavour::OciGzip)
}

/// How the image of a round is called.
pub(crate) fn name(round: u64) -> String {
    format!("localhost/powercut:{round}")
}

/// How the one with another configuration is called.
pub(crate) fn edited_name(round: u64) -> String {
    format!("localhost/edited:{round}")
}

/// Three layers: one that all rounds share, one of the round's own with many files, and one that changes both.
fn layers(seed: u64, round: u64) -> Vec<Vec<Item>> {
    let own = seed.wrapping_mul(1_000_003).wrapping_add(round);
    let base = vec![
        Item::dir("etc").mode(0o755),
        Item::file("etc/hosts", "127.0.0.1 localhost\n"),
        Item::file("bin/sh", noise(40_000, seed)).mode(0o755),
        Item::symlink("var/run", "/run"),
        Item::dir("run"),
    ];
    let mut middle = vec![Item::dir("data").mode(0o750).owner(7, 8)];
    for n in 0..24_u64 {
        let length = usize::try_from(own.rotate_left(u32::try_from(n).unwrap()) % 9000).unwrap();
        middle.push(Item::file(format!("data/d{}/f{n}", n % 4), noise(length, own ^ (n << 7))).mode(0o640));
    }
    middle.push(Item::hardlink("data/hard", "data/d0/f0"));
    middle.push(Item::file("data/large", noise(90_000, own)).xattr("user.note", "kept"));
    let top = vec![
        Item::whiteout("data/d1/f1"),
        Item::opaque("data/d2"),
        Item::file("data/d2/new", "new"),
        Item::file("etc/round", round.to_string()),
    ];
    vec![base, middle, top]
}

/// All that can be seen of a tree, as text.
pub(crate) fn told(tree: &Tree) -> String {
    tree.iter().map(|(path, node)| format!("{path:?} {node:?}\n")).collect()
}

/// What a stack looks like.
pub(crate) fn seen(snapshots: &Snapshots, chain: &ChainId) -> Result<String, Box<dyn std::error::Error>> {
    let key = SnapshotKey::new("look")?;
    snapshots.remove(&key)?;
    snapshots.view(&key, Some(chain))?;
    let mounts = snapshots.activate(&key)?;
    let text = told(&tree(&detached::open(mounts.first().ok_or("no mount")?)?));
    snapshots.remove(&key)?;
    Ok(text)
}

/// A part of what a stack looks like, as a tree of its own.
pub(crate) fn opened(mount: &Mount, inside: &str) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let top = detached::open(mount)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&top, inside, flags, Mode::empty())?)
}

/// What a volume holds.
pub(crate) fn held(active: &ActiveVolume) -> Result<String, Box<dyn std::error::Error>> {
    let inside = active.inside.as_deref().unwrap_or(".");
    Ok(told(&tree(&opened(&active.mount, inside)?)))
}

/// What a volume holds that is filled from `/data` of the image.
pub(crate) fn data_of(storage: &Storage, image: &Image) -> Result<String, Box<dyn std::error::Error>> {
    let snapshots = storage.snapshots();
    let key = SnapshotKey::new("data")?;
    snapshots.view(&key, Some(&image.chain_id))?;
    let mounts = snapshots.activate(&key)?;
    let text = told(&tree(&opened(mounts.first().ok_or("no mount")?, "data")?));
    snapshots.remove(&key)?;
    Ok(text)
}

/// The first file with content that is found below a directory.
pub(crate) fn first_file(below: &Path) -> PathBuf {
    let mut todo = vec![below.to_owned()];
    while let Some(dir) = todo.pop() {
        let mut entries: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                todo.push(path);
            } else if meta.is_file() && meta.len() > 1 {
                return path;
            }
        }
    }
    panic!("no file below {}", below.display())
}

/// All of an error, as people see it.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}
