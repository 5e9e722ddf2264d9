//! The program inside test and example images: static, alone in its image, a few behaviours by name.

#[path = "payload/probed.rs"]
mod probed;

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const USAGE: &str = "payload stamp FILE [stay] | stay | hello [SECONDS] | web [ADDRESS] | probed ADDRESS [WORD] | flaky [SECONDS] | eat MIB | \
                     count FILE... | journal FILE [SECONDS] | backup FROM TO [SECONDS] | \
                     is WORD | show [secret:](VARIABLE | /FILE)... | exit CODE";

fn main() -> ExitCode {
    // Before anything else: this is what start latency is measured by.
    let now = SystemTime::now();
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["stamp", file, rest @ ..] => stamp(now, file, rest == ["stay"]),
        ["stay"] => stay(),
        ["hello", rest @ ..] => hello(seconds(rest, 5)),
        ["web", rest @ ..] => web(rest.first().unwrap_or(&"127.0.0.1:8080")),
        ["probed", address, rest @ ..] => probed::serve(address, rest.first().unwrap_or(&"200")),
        ["is", word] => probed::is(word),
        ["flaky", rest @ ..] => flaky(seconds(rest, 3)),
        ["eat", mib] => eat(mib),
        ["count", files @ ..] if !files.is_empty() => count(files),
        ["journal", file, rest @ ..] => journal(file, seconds(rest, 2)),
        ["backup", from, to, rest @ ..] => backup(Path::new(from), Path::new(to), seconds(rest, 5)),
        ["show", things @ ..] if !things.is_empty() => show(things),
        ["exit", code] => return code.parse::<u8>().map_or(ExitCode::FAILURE, ExitCode::from),
        _ => {
            eprintln!("usage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("payload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn seconds(args: &[&str], default: u64) -> Duration {
    Duration::from_secs(args.first().and_then(|text| text.parse().ok()).unwrap_or(default))
}

/// Appends the time of its first instruction in nanoseconds since the epoch, as one line.
fn stamp(now: SystemTime, file: &str, then_stay: bool) -> std::io::Result<()> {
    let nanoseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?
        .write_all(format!("{nanoseconds}\n").as_bytes())?;
    if then_stay { stay() } else { Ok(()) }
}

fn stay() -> std::io::Result<()> {
    loop {
        std::thread::park();
    }
}

fn hello(every: Duration) -> std::io::Result<()> {
    for n in 1.. {
        println!("hello number {n} from process {}", std::process::id());
        std::thread::sleep(every);
    }
    Ok(())
}

fn flaky(after: Duration) -> std::io::Result<()> {
    println!("works for {} s, then fails with exit code 7", after.as_secs());
    std::thread::sleep(after);
    eprintln!("failing now");
    std::process::exit(7)
}

/// Serves one page, and the files of `/data` by name.
fn web(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("listening on http://{address}/");
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = [0; 1024];
        let n = stream.read(&mut request).unwrap_or(0);
        let line = String::from_utf8_lossy(&request[..n]).lines().next().unwrap_or_default().to_owned();
        println!("{line}");
        let name = line.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
        let page = if name.is_empty() || name.contains("..") {
            None
        } else {
            fs::read(format!("/data/{name}")).ok()
        };
        let page = page.unwrap_or_else(|| b"served by a container of stower\n".to_vec());
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&page));
    }
    Ok(())
}

/// Fills memory, page by page, so that a limit is met.
fn eat(mib: &str) -> std::io::Result<()> {
    let mib: usize = mib.parse().map_err(std::io::Error::other)?;
    let mut held = Vec::new();
    for n in 0..mib {
        held.push(vec![u8::try_from(n % 255).unwrap_or(1) | 1; 1 << 20]);
    }
    println!("holds {} MiB", held.len());
    stay()
}

/// Adds one to the number in each file, so that volumes show how often they were used.
fn count(files: &[&str]) -> std::io::Result<()> {
    for file in files {
        let n: u64 = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        fs::write(file, format!("{}\n", n + 1))?;
        println!("{file}: this is run {}", n + 1);
    }
    stay()
}

/// Appends a line to a file again and again.
fn journal(file: &str, every: Duration) -> std::io::Result<()> {
    let mut out = OpenOptions::new().create(true).append(true).open(file)?;
    for n in 1.. {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        out.write_all(format!("{now} line {n} of process {}\n", std::process::id()).as_bytes())?;
        std::thread::sleep(every);
    }
    Ok(())
}

/// Copies the files of a folder into another one again and again, each complete or not at all.
fn backup(from: &Path, to: &Path, every: Duration) -> std::io::Result<()> {
    match fs::write(from.join("by-the-backup"), "") {
        Ok(()) => println!("{} can be written to, which a backup should not", from.display()),
        Err(error) => println!("{} cannot be written to, as it should be: {error}", from.display()),
    }
    loop {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let mut temporary = entry.file_name();
                temporary.push(".new");
                let bytes = fs::copy(entry.path(), to.join(&temporary))?;
                fs::rename(to.join(&temporary), to.join(entry.file_name()))?;
                println!("copied {}: {bytes} bytes", entry.path().display());
            }
        }
        std::thread::sleep(every);
    }
}

/// Prints variables and files, and files again when they change; of secret ones only the length.
fn show(things: &[&str]) -> std::io::Result<()> {
    let mut known = vec![None; things.len()];
    loop {
        for (thing, known) in things.iter().zip(&mut known) {
            let (name, is_secret) =
                thing.strip_prefix("secret:").map_or((*thing, false), |name| (name, true));
            let value =
                if name.starts_with('/') { fs::read_to_string(name).ok() } else { env::var(name).ok() };
            if known.as_ref() == Some(&value) {
                continue;
            }
            match &value {
                None => println!("{name} is not there"),
                Some(value) if is_secret => println!("{name} has {} characters", value.chars().count()),
                Some(value) => println!("{name}: {}", value.trim_end()),
            }
            *known = Some(value);
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}
