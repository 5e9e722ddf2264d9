//! Pools on what the user gives: a thin pool, or a device.

use stower_storage::testsuite::Files;
use stower_storage::{Snapshots, detached};

use crate::support::{LoopDevice, chain, detail, image, key, open, run};

/// A thin pool of somebody's, by `dmsetup`.
struct GivenPool {
    name: String,
    _data: LoopDevice,
    _metadata: LoopDevice,
}

impl GivenPool {
    fn new(name: &str) -> Self {
        let (data, metadata) = (LoopDevice::new(1 << 30), LoopDevice::new(16 << 20));
        let table = format!("0 {} thin-pool {} {} 128 0", (1 << 30) / 512, metadata.path, data.path);
        run(&format!("dmsetup create --noudevsync {name} --table '{table}' && dmsetup mknodes {name}"));
        Self { name: name.to_owned(), _data: data, _metadata: metadata }
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }
}

impl Drop for GivenPool {
    fn drop(&mut self) {
        let _ = std::process::Command::new("dmsetup").args(["remove", &self.name]).output();
    }
}

/// Opens it twice, the second time by what is recorded, and finds again what was written.
fn is_used(options: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let used = |store: &Snapshots| {
        let mount = detached::open(&store.activate(&key("k")).unwrap()[0]).unwrap();
        let files = Files::new(&mount);
        if !files.path("mine").exists() {
            files.write("mine", "kept");
        }
        stower_storage::testsuite::close(mount);
        store.deactivate(&key("k")).unwrap();
    };
    let store = open(dir.path(), options).unwrap();
    let base = image(&store, 4, 100_000);
    store.prepare(&key("k"), Some(&base)).unwrap();
    used(&store);
    drop(store);
    let store = open(dir.path(), &[]).unwrap();
    assert!(store.has(&base));
    let mount = detached::open(&store.activate(&key("k")).unwrap()[0]).unwrap();
    assert_eq!(Files::new(&mount).read("mine"), "kept");
    drop(mount);
    assert_eq!(detail(&store, "thin devices"), "3");
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_given_pool_is_used_when_it_is_empty_or_ours() {
    let pool = GivenPool::new("given-empty");
    let options = [("dm.thinpooldev", pool.path()), ("dm.basesize", "256M".to_owned())];
    let options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
    is_used(&options);
    // It has that one's devices now, and is left as it is by everybody else.
    let dir = tempfile::tempdir().unwrap();
    let refused = chain(&open(dir.path(), &options).unwrap_err());
    println!("{refused}");
    assert!(refused.contains("it is not this driver's, and not empty"), "{refused}");
    assert!(run("dmsetup status given-empty").contains(" rw "));
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_given_pool_that_is_somebodys_is_refused_and_said_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |device: &str, why: &str| {
        let error = chain(&open(dir.path(), &[("dm.thinpooldev", device)]).unwrap_err());
        println!("{error}");
        assert!(error.contains(why), "{error}");
        assert!(!dir.path().join("devicemapper/pool.json").exists(), "another one can be tried");
    };
    let pool = GivenPool::new("given-foreign");
    run("dmsetup message given-foreign 0 'create_thin 5'");
    refused(&pool.path(), "it is not empty: it has 1 thin devices");
    run(
        "dmsetup message given-foreign 0 'delete 5' && dmsetup message given-foreign 0 'set_transaction_id 0 7'",
    );
    refused(&pool.path(), "its transaction is 7");
    let disk = LoopDevice::new(64 << 20);
    refused(&disk.path, "it is no thin pool");
    run(&format!(
        "dmsetup create --noudevsync given-linear --table '0 1000 linear {} 0' && dmsetup mknodes given-linear",
        disk.path
    ));
    refused("/dev/mapper/given-linear", "it is no thin pool but of the kind linear");
    run("dmsetup remove given-linear");
    refused("/dev/mapper/nothing", "No such file");
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_pool_is_made_on_an_empty_device_only_unless_forced() {
    let disk = LoopDevice::new(1 << 30);
    let device = disk.path.clone();
    run(&format!("mkfs.ext4 -q {device}"));
    let dir = tempfile::tempdir().unwrap();
    let options = [("dm.directlvm_device", device.as_str()), ("dm.basesize", "256M")];
    let refused = chain(&open(dir.path(), &options).unwrap_err());
    println!("{refused}");
    assert!(refused.contains("it has an ext2, ext3 or ext4 filesystem"), "{refused}");
    run(&format!("fsck.ext4 -fn {device}"));
    run(&format!("mount {device} /mnt"));
    let refused = chain(&open(dir.path(), &options).unwrap_err());
    run("umount /mnt");
    assert!(refused.contains("something uses it"), "{refused}");
    is_used(&[options[0], options[1], ("dm.directlvm_device_force", "true")]);
    // The pool of the one that is gone is nobody else's to overwrite.
    let refused = chain(&open(dir.path(), &options).unwrap_err());
    assert!(refused.contains("of another agent"), "{refused}");
    let blank = LoopDevice::new(1 << 30);
    is_used(&[("dm.directlvm_device", blank.path.as_str()), ("dm.basesize", "256M")]);
}
