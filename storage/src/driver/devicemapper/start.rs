//! Start-up: the records, the pool's own list and the devices that are shown are compared, and all three agree afterwards.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::record::{self, BASE, THIN, Thin};
use super::{DeviceMapper, lock};
use crate::digest::ChainId;
use crate::dm::SECTOR;
use crate::dm::metadata::Details;
use crate::driver::{DriverError, Found, SnapshotKind};
use crate::failpoint::failpoint;

pub(super) fn load(driver: &DeviceMapper) -> Result<Found, DriverError> {
    let mut found = driver.store.load()?;
    // A record that a power cut brought back must not meet a device that gets its number from now on.
    let root = crate::driver::store::open_dir(&driver.pool.root)?;
    rustix::fs::syncfs(&root).map_err(DriverError::io("sync", &driver.pool.root))?;
    let there = if driver.pool.writable() {
        match driver.pool.devices() {
            Ok(there) => Some(there),
            // What can be read of it can be used.
            Err(error) => {
                tracing::error!(%error, pool = driver.pool.name, "cannot tell which thin devices the pool has");
                None
            }
        }
    } else {
        tracing::warn!(
            pool = driver.pool.name,
            "the pool cannot be written to; what is left over in it is not looked for"
        );
        None
    };
    let base = record::read(&driver.pool.root.join(BASE));
    failpoint!("start.compared");
    drop_unfounded(driver, &mut found, base, there.as_ref())?;
    let base = base.filter(|base| there.as_ref().is_none_or(|there| there.contains_key(&base.id)));
    let mut named = driver.name_all(&found);
    named.extend(base.map(|base| base.id));
    let known = there.as_ref().map(|there| there.keys().copied().collect()).unwrap_or_else(|| named.clone());
    driver.pool.know(known);
    tidy_devices(driver, &named)?;
    if let Some(there) = &there {
        let block = driver.pool.config.block_size / SECTOR;
        lock(&driver.mapped)
            .extend(there.iter().map(|(id, details)| (*id, details.mapped.saturating_mul(block))));
        remove_unnamed(driver, there, &named);
    }
    match (base, there.is_some()) {
        (Some(base), _) => driver.set_base(base),
        (None, true) => match driver.make_base() {
            Ok(base) => driver.set_base(base),
            Err(error) if found.layers.is_empty() => return Err(error),
            // Images and containers do not need it.
            Err(error) => {
                tracing::error!(%error, pool = driver.pool.name, "cannot make the base device, which was lost");
            }
        },
        // Reading goes on without it.
        (None, false) => {}
    }
    Ok(found)
}

/// Drops records without a device of their own, and those of layers and snapshots that are based on one.
fn drop_unfounded(
    driver: &DeviceMapper,
    found: &mut Found,
    base: Option<Thin>,
    there: Option<&BTreeMap<u32, Details>>,
) -> Result<(), DriverError> {
    let mut owners: HashMap<u32, u32> = HashMap::new();
    let dirs = |found: &Found| -> Vec<PathBuf> {
        let layers = found.layers.iter().map(|layer| driver.store.layer(&layer.chain));
        let own = found.snapshots.iter().filter(|snapshot| snapshot.kind == SnapshotKind::Writable);
        layers.chain(own.map(|snapshot| driver.store.snapshot(&snapshot.key))).collect()
    };
    let all = dirs(found);
    for thin in all.iter().filter_map(|dir| record::read(&dir.join(THIN))).chain(base) {
        *owners.entry(thin.id).or_default() += 1;
    }
    let bad = |dir: &PathBuf| {
        let why = match record::read(&dir.join(THIN)) {
            None => "it names no thin device",
            Some(thin) if there.is_some_and(|there| !there.contains_key(&thin.id)) => {
                "its thin device is not in the pool"
            }
            Some(thin) if owners.get(&thin.id).is_some_and(|owners| *owners > 1) => {
                "another one names the same thin device"
            }
            Some(_) => return false,
        };
        tracing::warn!(path = %dir.display(), why, "dropped a record");
        true
    };
    let mut gone: Vec<PathBuf> = Vec::new();
    let mut lost: Vec<ChainId> = Vec::new();
    found.layers.retain(|layer| {
        let dir = driver.store.layer(&layer.chain);
        let is_bad = bad(&dir);
        if is_bad {
            gone.push(dir);
            lost.push(layer.chain);
        }
        !is_bad
    });
    // What is above a lost layer has its own device, and can be used no more: nobody could say what is below it.
    while let Some(chain) = lost.pop() {
        found.layers.retain(|layer| {
            let above = layer.parent == Some(chain);
            if above {
                tracing::warn!(chain = %layer.chain, "dropped a layer whose parent is lost");
                gone.push(driver.store.layer(&layer.chain));
                lost.push(layer.chain);
            }
            !above
        });
    }
    let chains: std::collections::HashSet<ChainId> = found.layers.iter().map(|layer| layer.chain).collect();
    found.snapshots.retain(|snapshot| {
        let dir = driver.store.snapshot(&snapshot.key);
        let homeless = snapshot.parent.is_some_and(|parent| !chains.contains(&parent));
        let is_bad = homeless || (snapshot.kind == SnapshotKind::Writable && bad(&dir));
        if homeless {
            tracing::warn!(key = %snapshot.key, "dropped a snapshot whose parent is lost");
        }
        if is_bad {
            gone.push(dir);
        }
        !is_bad
    });
    for dir in gone {
        driver.store.discard(&dir)?;
    }
    Ok(())
}

/// Devices that a process left: none is held still, and those go that nobody has open.
fn tidy_devices(driver: &DeviceMapper, named: &std::collections::HashSet<u32>) -> Result<(), DriverError> {
    let control = &driver.pool.control;
    for name in control.list(&driver.pool.config.prefix())? {
        let Some((id, reader)) = driver.pool.parse_device(&name) else { continue };
        let Some(info) = control.info(&name)? else { continue };
        if info.suspended && info.active {
            control.resume(&name)?;
        }
        if reader || !named.contains(&id) || !info.active {
            driver.pool.let_go(&name)?;
        } else {
            driver.pool.put_away(&name, 0)?;
        }
    }
    Ok(())
}

fn remove_unnamed(
    driver: &DeviceMapper,
    there: &BTreeMap<u32, Details>,
    named: &std::collections::HashSet<u32>,
) {
    // How large they are is not known; that nothing is mapped beyond is.
    for (id, details) in there.iter().filter(|(id, _)| !named.contains(id)) {
        tracing::info!(id, blocks = details.mapped, "removing a thin device that no record names");
        driver.reaper.add(Thin { id: *id, sectors: driver.pool.largest() });
    }
}
