//! A pool on a whole device: a label, then metadata, then data, as device-mapper's linear devices, with room at the end to
//! grow into. What Docker used LVM for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::backing::Size;
use super::config::Config;
use super::options::{MOST_METADATA, Options};
use super::pool::refused;
use crate::dm::{Control, Number, SECTOR, Suspend, Target};
use crate::driver::DriverError;

/// In bytes: everything begins at a multiple of it.
const STEP: u64 = 1 << 20;
const LABEL: usize = 4096;
const MAGIC: &str = "stower thin pool, version 1";
const LEAST: u64 = 96 << 20;
const LEAST_METADATA: u64 = 8 << 20;

/// Where things are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    metadata: u64,
    data: u64,
    end: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Direct {
    path: PathBuf,
    number: Number,
    prefix: String,
    instance: String,
    size: u64,
    layout: Mutex<Layout>,
}

impl Direct {
    /// `fresh`: nothing that was ever used is on it.
    pub(super) fn open(
        path: &Path,
        config: &Config,
        options: &Options,
        control: &Control,
        fresh: bool,
    ) -> Result<(Self, Size), DriverError> {
        let number = Number::of_node(path).map_err(DriverError::io("look at", path))?;
        let prefix = config.prefix();
        let active = control.info(&format!("{prefix}data"))?.is_some();
        let mut open = OpenOptions::new();
        if !active {
            // Nobody else has it, and nobody mounts it meanwhile.
            open.custom_flags(libc::O_EXCL);
        }
        let file = match open.read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(refused(path, "something uses it: it is mounted, or part of something else"));
            }
            other => other.map_err(DriverError::io("open", path))?,
        };
        let size =
            io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(DriverError::io("measure", path))?;
        let layout = match read_label(&file).map_err(DriverError::io("read", path))? {
            Some((instance, layout)) if instance == config.instance => layout,
            _ if !fresh => {
                return Err(refused(path, "it does not have the pool any more that was made on it"));
            }
            Some((instance, _)) if !options.direct_force => {
                return Err(refused(
                    path,
                    format!(
                        "it has the pool {instance} of another agent; dm.directlvm_device_force=true overwrites it"
                    ),
                ));
            }
            _ => {
                if !options.direct_force {
                    check_empty(&file, path, size)?;
                }
                plan(path, size, options)?
            }
        };
        if fresh && !active {
            write_label(&file, &config.instance, layout).map_err(DriverError::io("label", path))?;
            // The kernel makes a pool only where it finds zeros.
            let zeros = vec![0; LABEL];
            file.write_all_at(&zeros, layout.metadata).map_err(DriverError::io("clear", path))?;
            file.sync_all().map_err(DriverError::io("sync", path))?;
        }
        drop(file);
        let it = Self {
            path: path.to_owned(),
            number,
            prefix,
            instance: config.instance.clone(),
            size,
            layout: Mutex::new(layout),
        };
        let ensure = |part: &str, target: Target| -> Result<Number, DriverError> {
            Ok(control.ensure(&format!("{}{part}", it.prefix), &[target], false)?.number)
        };
        let metadata = ensure("metadata", it.linear(layout.metadata, layout.data))?;
        let data = ensure("data", it.linear(layout.data, layout.end))?;
        Ok((it, Size { metadata, data, data_sectors: (layout.end - layout.data) / SECTOR }))
    }

    fn linear(&self, from: u64, to: u64) -> Target {
        Target {
            start: 0,
            length: (to - from) / SECTOR,
            kind: "linear".to_owned(),
            line: format!("{} {}", self.number, from / SECTOR),
        }
    }

    /// Gives data more of the device's end; how many sectors they have then.
    pub(super) fn extend(&self, percent: u8) -> Result<Option<u64>, DriverError> {
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let more = ((layout.end - layout.data) / 100 * u64::from(percent)).next_multiple_of(STEP);
        let end = layout.end.saturating_add(more).min(self.size / STEP * STEP);
        if end <= layout.end {
            return Ok(None);
        }
        let new = Layout { end, ..*layout };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(DriverError::io("open", &self.path))?;
        write_label(&file, &self.instance, new).map_err(DriverError::io("label", &self.path))?;
        let control = Control::open().map_err(DriverError::io("open", "/dev/mapper/control"))?;
        let name = format!("{}data", self.prefix);
        control.load(&name, &[self.linear(new.data, new.end)], false)?;
        control.suspend(&name, Suspend::NoFlush)?;
        control.resume(&name)?;
        *layout = new;
        Ok(Some((end - new.data) / SECTOR))
    }

    pub(super) fn close(&self, control: &Control) {
        for part in ["data", "metadata"] {
            let _ = control.remove(&format!("{}{part}", self.prefix), false);
        }
    }
}

fn plan(path: &Path, size: u64, options: &Options) -> Result<Layout, DriverError> {
    if size < LEAST {
        return Err(refused(path, format!("it has {size} bytes, and a pool needs {LEAST}")));
    }
    let share = |percent: u8| size / 100 * u64::from(percent) / STEP * STEP;
    let metadata = STEP;
    let data = metadata + share(options.metadata_percent).clamp(LEAST_METADATA, MOST_METADATA / STEP * STEP);
    let end = (data + share(options.data_percent)).min(size / STEP * STEP);
    Ok(Layout { metadata, data, end })
}

fn write_label(file: &File, instance: &str, layout: Layout) -> io::Result<()> {
    let Layout { metadata, data, end } = layout;
    let mut label = format!("{MAGIC}\n{instance}\n{metadata} {data} {end}\n").into_bytes();
    label.resize(LABEL, 0);
    file.write_all_at(&label, 0)?;
    file.sync_all()
}

fn read_label(file: &File) -> io::Result<Option<(String, Layout)>> {
    let mut label = vec![0; LABEL];
    file.read_exact_at(&mut label, 0)?;
    Ok(parse_label(&label))
}

fn parse_label(label: &[u8]) -> Option<(String, Layout)> {
    let end = label.iter().position(|byte| *byte == 0)?;
    let mut lines = std::str::from_utf8(&label[..end]).ok()?.lines();
    if lines.next()? != MAGIC {
        return None;
    }
    let instance = lines.next()?.to_owned();
    let mut numbers = lines.next()?.split(' ').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok().filter(|number| number % STEP == 0);
    let layout = Layout { metadata: next()?, data: next()?, end: next()? };
    (STEP <= layout.metadata && layout.metadata < layout.data && layout.data < layout.end)
        .then_some((instance, layout))
}

/// A device that has anything at its beginning or its end is somebody's.
fn check_empty(file: &File, path: &Path, size: u64) -> Result<(), DriverError> {
    let mut part = vec![0; usize::try_from(STEP).unwrap_or(0)];
    for at in [0, size.saturating_sub(STEP)] {
        file.read_exact_at(&mut part, at).map_err(DriverError::io("read", path))?;
        if part.iter().any(|byte| *byte != 0) {
            let what = if at == 0 { signature(&part) } else { "data at its end" };
            return Err(refused(
                path,
                format!("it is not empty: it has {what}; dm.directlvm_device_force=true overwrites it"),
            ));
        }
    }
    Ok(())
}

/// What it looks like; places as in libblkid.
fn signature(start: &[u8]) -> &'static str {
    let known: [(usize, &[u8], &str); 8] = [
        (1080, b"\x53\xef", "an ext2, ext3 or ext4 filesystem"),
        (0, b"XFSB", "an XFS filesystem"),
        (65_600, b"_BHRfS_M", "a btrfs filesystem"),
        (536, b"LVM2 001", "an LVM physical volume"),
        (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
        (4086, b"SWAPSPACE2", "swap space"),
        (512, b"EFI PART", "a partition table (GPT)"),
        (510, b"\x55\xaa", "a partition table or a boot sector"),
    ];
    known
        .iter()
        .find(|(at, bytes, _)| start.get(*at..*at + bytes.len()) == Some(*bytes))
        .map_or("data that is not known", |(_, _, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let layout = Layout { metadata: STEP, data: 9 * STEP, end: 100 * STEP };
        let file = tempfile::tempfile().unwrap();
        write_label(&file, "0123456789abcdef", layout).unwrap();
        assert_eq!(read_label(&file).unwrap(), Some(("0123456789abcdef".to_owned(), layout)));
        for bad in [
            String::new(),
            "x".into(),
            format!("{MAGIC}\ni\n"),
            format!("{MAGIC}\ni\n1048576 1048576 3145728\n"),
            format!("{MAGIC}\ni\n1048576 2097152 x\n"),
            format!("{MAGIC}\ni\n0 2097152 3145728\n"),
            format!("{MAGIC}\ni\n1048577 2097152 3145728\n"),
        ] {
            let mut label = bad.clone().into_bytes();
            label.resize(LABEL, 0);
            assert_eq!(parse_label(&label), None, "{bad}");
        }
    }

    #[test]
    fn shares_of_the_device() {
        let layout = plan(Path::new("/dev/x"), 100 << 30, &Options::default()).unwrap();
        assert_eq!(layout, Layout { metadata: STEP, data: STEP + (1 << 30), end: STEP + (96 << 30) });
        assert!(plan(Path::new("/dev/x"), 10 << 20, &Options::default()).is_err());
    }

    #[test]
    fn signatures_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        check_empty(file.as_file(), file.path(), 8 << 20).unwrap();
        for (at, bytes, what) in [
            (1080, &b"\x53\xef"[..], "ext4"),
            (512, b"EFI PART", "GPT"),
            (77, b"x", "not known"),
            ((8 << 20) - 1, b"x", "at its end"),
        ] {
            file.as_file().write_all_at(bytes, at).unwrap();
            let error = format!("{:?}", check_empty(file.as_file(), file.path(), 8 << 20).unwrap_err());
            assert!(error.contains(what), "{error}");
            file.as_file().write_all_at(&vec![0; bytes.len()], at).unwrap();
        }
    }
}
