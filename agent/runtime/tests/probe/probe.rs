//! Runs inside a container and says what it sees. Each argument is one question; each answer is one line or more,
//! under a line `== question`. Built by the tests with the compiler alone, static, so that the image needs nothing else.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong};
use std::fs;
use std::process::Stdio;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        fs: *const c_char,
        flags: c_ulong,
        data: *const c_char,
    ) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn personality(persona: c_ulong) -> c_int;
    fn getuid() -> u32;
    fn getgid() -> u32;
    fn getgroups(size: c_int, list: *mut u32) -> c_int;
    fn umask(mask: u32) -> u32;
    fn mknod(path: *const c_char, mode: u32, device: u64) -> c_int;
    fn raise(signal: c_int) -> c_int;
    fn setsid() -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

fn errno(result: i64) -> String {
    if result >= 0 {
        return "ok".to_owned();
    }
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0).to_string()
}

fn result<T>(r: std::io::Result<T>) -> String {
    match r {
        Ok(_) => "ok".to_owned(),
        Err(e) => e.raw_os_error().unwrap_or(0).to_string(),
    }
}

fn call(name: &str) -> String {
    let c = |s: &str| CString::new(s).unwrap();
    unsafe {
        match name {
            "mount" => {
                let (s, d, f) = (c("tmpfs"), c("/tmp"), c("tmpfs"));
                errno(mount(s.as_ptr(), d.as_ptr(), f.as_ptr(), 0, std::ptr::null()).into())
            }
            "keyctl" => errno(syscall(250, 0 as c_long, -3 as c_long, 0 as c_long)),
            "bpf" => errno(syscall(321, 0 as c_long, 0 as c_long, 0 as c_long)),
            "af_alg" => errno(socket(38, 5, 0).into()),
            "af_vsock" => errno(socket(40, 1, 0).into()),
            "af_inet" => errno(socket(2, 1, 0).into()),
            "af_unix" => errno(socket(1, 1, 0).into()),
            "newuser" => errno(unshare(0x1000_0000).into()),
            "unshare_files" => errno(unshare(0x400).into()),
            "clone_newuser" => {
                errno(syscall(56, 0x1000_0011 as c_long, 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long))
            }
            "clone3" => errno(syscall(435, 0 as c_long, 0 as c_long)),
            "personality_ok" => errno(personality(0xffff_ffff).into()),
            "personality_bad" => errno(personality(0x0040_0000).into()),
            "io_uring" => errno(syscall(425, 1 as c_long, 0 as c_long)),
            "ptrace_self" => errno(syscall(101, 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long)),
            "x32_getpid" => errno(syscall(0x4000_0000 | 39)),
            "unknown" => errno(syscall(1000)),
            _ => "unknown call".to_owned(),
        }
    }
}

fn answer(question: &str) {
    let (what, of) = question.split_once(':').unwrap_or((question, ""));
    if what != "hold" {
        println!("== {question}");
    }
    match what {
        "cat" => match fs::read(of) {
            Ok(bytes) => print!(
                "{}{}",
                String::from_utf8_lossy(&bytes),
                if bytes.ends_with(b"\n") { "" } else { "\n" }
            ),
            Err(e) => println!("error {}", e.raw_os_error().unwrap_or(0)),
        },
        "ls" => match fs::read_dir(of) {
            Ok(dir) => {
                let mut names: Vec<_> =
                    dir.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
                names.sort();
                println!("{}", names.join(" "));
            }
            Err(e) => println!("error {}", e.raw_os_error().unwrap_or(0)),
        },
        "link" => println!(
            "{}",
            fs::read_link(of).map_or_else(|e| format!("error {e}"), |p| p.display().to_string())
        ),
        "stat" => {
            use std::os::unix::fs::MetadataExt;
            match fs::symlink_metadata(of) {
                Ok(m) => println!(
                    "{:o} {}:{} rdev {}:{}",
                    m.mode(),
                    m.uid(),
                    m.gid(),
                    m.rdev() >> 8,
                    m.rdev() & 0xff
                ),
                Err(e) => println!("error {}", e.raw_os_error().unwrap_or(0)),
            }
        }
        "write" => println!("{}", result(fs::write(of, "x"))),
        "node" => {
            // As PATH=MAJOR=MINOR, a character device; then it is opened.
            let mut parts = of.split('=');
            let path = CString::new(parts.next().unwrap()).unwrap();
            let number = |p: Option<&str>| p.unwrap().parse::<u64>().unwrap();
            let (major, minor) = (number(parts.next()), number(parts.next()));
            let made = unsafe { mknod(path.as_ptr(), 0o020_666, major << 8 | minor) };
            println!("{} {}", errno(made.into()), result(fs::File::open(path.to_str().unwrap())));
        }
        "mkdir" => println!("{}", result(fs::create_dir(of))),
        "call" => println!("{}", call(of)),
        "id" => unsafe {
            let mut groups = [0u32; 64];
            let n = getgroups(64, groups.as_mut_ptr());
            let groups: Vec<String> = groups[..n as usize].iter().map(u32::to_string).collect();
            println!("{} {} {}", getuid(), getgid(), groups.join(","));
        },
        "cwd" => println!(
            "{}",
            std::env::current_dir().map_or_else(|e| format!("error {e}"), |p| p.display().to_string())
        ),
        "env" => {
            for (k, v) in std::env::vars() {
                println!("{k}={v}");
            }
        }
        "pid" => println!("{}", std::process::id()),
        "umask" => println!("{:o}", unsafe { umask(0) }),
        "stdin" => println!(
            "{}",
            fs::read_link("/proc/self/fd/0").map_or_else(|e| e.to_string(), |p| p.display().to_string())
        ),
        "fork" => println!("{}", result(std::process::Command::new("/bin/probe").arg("pid").status())),
        "eat" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            let mib: usize = of.parse().unwrap_or(1);
            for _ in 0..mib {
                held.push(vec![1u8; 1 << 20]);
            }
            println!("{}", held.len());
        }
        "leave" => {
            // A child in a session of its own, which holds none of our descriptors, and one that holds all.
            unsafe { setsid() };
            let mut apart = std::process::Command::new("/bin/probe");
            apart.arg("wait").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            println!("{}", result(apart.spawn()));
            println!("{}", result(std::process::Command::new("/bin/probe").arg("hold").spawn()));
        }
        "size" => {
            let mut size = [0u16; 4];
            let done = unsafe { ioctl(0, 0x5413, &raw mut size) };
            println!("{} {}x{}", errno(done.into()), size[0], size[1]);
        }
        "say" => println!("{}", "x".repeat(of.parse().unwrap_or(1))),
        "echo" => {
            let mut line = String::new();
            println!("{}", result(std::io::stdin().read_line(&mut line)));
            println!("read {}", line.trim_end());
        }
        "wait" | "hold" => loop {
            std::thread::park();
        },
        "exit" => std::process::exit(of.parse().unwrap_or(1)),
        "raise" => {
            unsafe { raise(of.parse().unwrap_or(9)) };
        }
        _ => println!("unknown question"),
    }
}

fn main() {
    for question in std::env::args().skip(1) {
        answer(&question);
    }
    println!("== end");
}
