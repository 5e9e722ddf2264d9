//! What runs in the guest of power cuts: `replay cuts JSON` replays a log (`stower_e2e::powercut::Replay`), `replay mark DEVICE
//! TEXT` puts a mark into one, `replay note FILE TEXT` into a file that outlives the machine. `replay tell SOCKET COUNT mark DEVICE`
//! (or `note FILE`) works with an agent, and marks what it has confirmed; `replay told
//! SOCKET` looks for what `POWERCUT_MUST` has of it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use stower_e2e::{dm, powercut};

const USAGE: &str = "usage: replay cuts JSON | replay mark DEVICE TEXT | replay note FILE TEXT | \
                     replay tell SOCKET COUNT mark DEVICE|note FILE | replay told SOCKET";

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(powercut::FOUND),
        Err(error) => {
            eprintln!("replay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<usize> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cuts", text] => serde_json::from_str::<powercut::Replay>(text).context("the replay")?.run(),
        ["tell", socket, count, how @ ("mark" | "note"), to] => {
            let count = count.parse().context("the count")?;
            powercut::tell(Path::new(socket), count, &|text| mark(how, to, text)).map(|()| 0)
        }
        ["told", socket] => {
            let must = std::env::var("POWERCUT_MUST").unwrap_or_default();
            let wrong = powercut::told(Path::new(socket), &must)?;
            wrong.iter().for_each(|line| println!("WRONG: {line}"));
            Ok(wrong.len())
        }
        [how @ ("mark" | "note"), to, text] => mark(how, to, text).map(|()| 0),
        _ => bail!(USAGE),
    }
}

fn mark(how: &str, to: &str, text: &str) -> Result<()> {
    if how == "mark" {
        return dm::message(to, &format!("mark {text}"));
    }
    let mut file = File::options().append(true).create(true).open(to)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    Ok(file.sync_all()?)
}
