//! Device-mapper by its own calls (include/uapi/linux/dm-ioctl.h): in the emulator each run of `dmsetup` takes a third of a
//! second, and after each power cut there are several.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

const CONTROL: &str = "/dev/mapper/control";
/// `sizeof(struct dm_ioctl)`.
const HEAD: usize = 312;
/// `sizeof(struct dm_target_spec)`.
const SPEC: usize = 40;
/// Head and data of one call.
const CALL: usize = 16 << 10;
/// Where the head has its fields.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_LENGTH: usize = 128;

#[derive(Clone, Copy)]
enum Command {
    List = 2,
    Create = 3,
    Remove = 4,
    /// With no flag that says otherwise: resume, which makes the loaded table the live one.
    Suspend = 6,
    Load = 9,
    Message = 14,
}

/// Makes a device of one target over all of `sectors` (of 512 bytes), and gives its node.
pub fn create(name: &str, sectors: u64, target: &str, parameters: &str) -> Result<PathBuf> {
    let mut spec = vec![0; SPEC];
    spec[8..16].copy_from_slice(&sectors.to_le_bytes());
    spec[24..24 + target.len()].copy_from_slice(target.as_bytes());
    spec.extend(parameters.as_bytes());
    // A zero byte ends it, and the next one would be aligned.
    spec.resize((spec.len() + 1).next_multiple_of(8), 0);
    let made = call(Command::Create, name, 0, &[])?;
    let device = number(&made[..], DEVICE)?;
    let live = call(Command::Load, name, 1, &spec).and_then(|_| call(Command::Suspend, name, 0, &[]));
    if let Err(error) = live {
        remove(name)?;
        return Err(error.context(format!("load `{target} {parameters}`")));
    }
    // Of 32 bits, as the kernel's `huge_encode_dev` packs them; the minor's low byte comes first.
    let minor = (device & 0xff) | ((device >> 12) & 0x000f_ff00);
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

/// Removes a device that nobody has open.
pub fn remove(name: &str) -> Result<()> {
    call(Command::Remove, name, 0, &[]).map(drop)
}

/// Sends the target at the device's first sector a message.
pub fn message(name: &str, text: &str) -> Result<()> {
    let data = [&0_u64.to_le_bytes()[..], text.as_bytes(), &[0]].concat();
    call(Command::Message, name, 0, &data).map(drop)
}

/// Tries to remove all devices but those of these names; those that are in use stay.
pub fn remove_others(keep: &[&str]) -> Result<()> {
    for name in names()?.iter().filter(|name| !keep.contains(&name.as_str())) {
        // Its own failure is of no interest: what is left is in somebody's way, who says so.
        let _ = remove(name);
    }
    Ok(())
}

fn names() -> Result<Vec<String>> {
    let list = call(Command::List, "", 0, &[])?;
    // `struct dm_name_list`: the device, the way to the next one, the name.
    let (mut names, mut at) = (Vec::new(), HEAD);
    loop {
        let name: Vec<u8> = list.iter().skip(at + 12).copied().take_while(|byte| *byte != 0).collect();
        if number(&list[..], at)? == 0 {
            return Ok(names);
        }
        names.push(String::from_utf8(name)?);
        let next = usize::try_from(number(&list[..], at + 8)? & u64::from(u32::MAX))?;
        if next == 0 {
            return Ok(names);
        }
        at += next;
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + 8).context("device-mapper's answer is too short")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

/// One call; gives what it has written over.
fn call(command: Command, name: &str, targets: u32, data: &[u8]) -> Result<Box<[u8; CALL]>> {
    ensure!(name.len() < NAME_LENGTH && HEAD + data.len() <= CALL, "too long for device-mapper: {name}");
    let mut bytes = Box::new([0; CALL]);
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    // The version of the interface: any 4.x takes what is used here.
    put(0, &4_u32.to_le_bytes());
    put(DATA_SIZE, &u32::try_from(CALL)?.to_le_bytes());
    put(DATA_START, &u32::try_from(HEAD)?.to_le_bytes());
    put(TARGET_COUNT, &targets.to_le_bytes());
    put(NAME, name.as_bytes());
    put(HEAD, data);
    let control = File::options().read(true).write(true).open(CONTROL);
    let control = control.with_context(|| format!("open {CONTROL} (modprobe dm-mod)"))?;
    let number = u8::try_from(command as u32)?;
    // SAFETY: the kernel reads and writes within `data_size` bytes, and so many there are.
    let done = unsafe { rustix::ioctl::ioctl(control.as_fd(), Call { number, bytes: &mut bytes }) };
    done.map_err(io::Error::from).with_context(|| format!("device-mapper call {number} for {name}"))?;
    Ok(bytes)
}

struct Call<'a> {
    number: u8,
    bytes: &'a mut [u8; CALL],
}

// SAFETY: the opcode is that of a call which takes a `struct dm_ioctl` followed by data, and `bytes` is one.
unsafe impl Ioctl for Call<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u8; HEAD]>(0xfd, self.number)
    }

    fn as_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut libc::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}
