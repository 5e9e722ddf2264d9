//! The workload: pull, unpack, commit, remove, volumes made, filled and removed, over and over.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

use stower_storage::testsuite::close;
use stower_storage::{
    CommitRequest, FillSource, Image, ImageName, SnapshotKey, Storage, VolumeDriver, VolumeKey,
    VolumeOptions, Volumes, detached,
};

use crate::support::noise;
use crate::things::{Place, data_of, edited_name, name};

struct Worker<'a> {
    place: &'a Place,
    storage: Storage,
    volumes: Volumes,
    runtime: tokio::runtime::Runtime,
    mark: Vec<String>,
    seed: u64,
}

/// Works for so many rounds, or until it is killed.
pub(crate) fn work(place: &Place, seed: u64, rounds: u64, mark: Vec<String>) {
    std::fs::create_dir_all(&place.root).unwrap();
    std::fs::create_dir_all(&place.beside).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (storage, volumes) = place.open().unwrap();
    let worker = Worker { place, storage, volumes, runtime, mark, seed };
    // One that was killed is followed by one that goes on, with things of its own.
    let first = worker.first();
    for round in (first..).take_while(|round| rounds == 0 || round - first < rounds) {
        worker.round(round, round == first);
    }
}

impl Worker<'_> {
    /// A number that no earlier worker has used.
    fn first(&self) -> u64 {
        let file = self.place.beside.join("worker");
        let last: u64 = std::fs::read_to_string(&file).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        self.beside("worker", &(last + 1000).to_string());
        last
    }

    fn beside(&self, name: &str, text: &str) {
        let aside = self.place.beside.join("aside");
        let mut file = File::create(&aside).unwrap();
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).unwrap();
        std::fs::rename(aside, self.place.beside.join(name)).unwrap();
    }

    fn mark(&self, text: &str) {
        if let Some((program, args)) = self.mark.split_first() {
            assert!(Command::new(program).args(args).arg(text).status().unwrap().success(), "mark {text}");
        } else {
            let mut file = File::options().append(true).create(true).open(self.place.beside.join("marks"));
            let file = file.as_mut().unwrap();
            file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all()).unwrap();
        }
    }

    fn round(&self, round: u64, first: bool) {
        let image = self.pull(self.place.layout(self.seed, round), &name(round));
        self.pull(self.place.edited_layout(self.seed, round), &edited_name(round));
        // Every volume is filled from the image of its round.
        self.volume(&format!("plain/{round}"), &VolumeOptions::new(VolumeDriver::Local), &image);
        if round.is_multiple_of(2) {
            let sized = VolumeOptions { capacity: Some(16 << 20), ..VolumeOptions::new(VolumeDriver::Local) };
            self.volume(&format!("sized/{round}"), &sized, &image);
        }
        self.commit(round, &image);
        if !first {
            let last = round - 1;
            for name in [name(last), edited_name(last), format!("localhost/committed:{last}")] {
                self.mark(&format!("-image:{name}"));
                let name = ImageName::Reference(name.parse().unwrap());
                self.runtime.block_on(self.storage.remove_image(name)).unwrap();
            }
            for key in [format!("plain/{last}"), format!("sized/{last}")] {
                self.mark(&format!("-volume:{key}"));
                self.volumes.remove(&key.parse().unwrap()).unwrap();
            }
        }
    }

    fn pull(&self, layout: PathBuf, name: &str) -> Image {
        self.mark(&format!("~pull=image:{name}"));
        let import = self.storage.import(layout, Some(name.parse().unwrap()));
        let image = self.runtime.block_on(import).unwrap().remove(0);
        self.mark(&format!("+image:{name}"));
        image
    }

    fn volume(&self, key: &str, options: &VolumeOptions, image: &Image) {
        let id: VolumeKey = key.parse().unwrap();
        self.mark(&format!("~fill=volume:{key}"));
        self.volumes.provision(&id, options).unwrap();
        let digest = image.digest.to_string();
        let expected = data_of(&self.storage, image).unwrap();
        let file = self.place.fill_of(&digest);
        self.beside(&file.file_name().unwrap().to_string_lossy(), &expected);
        let tree = self.storage.open_tree(&image.chain_id, "fill").unwrap();
        let source = FillSource { tree: std::os::fd::AsFd::as_fd(&tree), path: "/data", image: &digest };
        self.volumes.fill(&id, &source).unwrap();
        self.mark(&format!("+volume:{key}"));
    }

    /// What a container leaves becomes an image, and the container goes.
    fn commit(&self, round: u64, base: &Image) {
        let snapshots = self.storage.snapshots();
        let key = SnapshotKey::new(format!("container-{round}")).unwrap();
        self.mark(&format!("~write={round}"));
        snapshots.prepare(&key, Some(&base.chain_id)).unwrap();
        let mount = detached::open(&snapshots.activate(&key).unwrap()[0]).unwrap();
        let root = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd()));
        for n in 0..8 {
            std::fs::write(root.join(format!("data/written-{n}")), noise(5000 + n * 700, round)).unwrap();
        }
        std::fs::remove_file(root.join("data/d0/f0")).unwrap();
        std::fs::rename(root.join("data/large"), root.join("data/moved")).unwrap();
        close(mount);
        snapshots.deactivate(&key).unwrap();
        let name = format!("localhost/committed:{round}");
        let request = CommitRequest {
            snapshot: key.clone(),
            base: base.digest,
            name: Some(name.parse().unwrap()),
            author: None,
            message: None,
            created_by: "powercut".into(),
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
            changes: Vec::new(),
            stubs: Vec::new(),
            reading: None,
        };
        self.mark(&format!("~commit=image:{name}"));
        self.runtime.block_on(self.storage.commit_image(request)).unwrap();
        self.mark(&format!("+image:{name}"));
        snapshots.remove(&key).unwrap();
    }
}
