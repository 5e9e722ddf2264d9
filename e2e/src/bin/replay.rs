//! What runs in the guest of power cuts: `replay cuts JSON` replays a log (`stower_e2e::powercut::Replay`), `replay mark DEVICE
//! TEXT` puts a mark into one, `replay note FILE TEXT` into a file that outlives the machine.

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use stower_e2e::{dm, powercut};

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
        ["mark", device, text] => dm::message(device, &format!("mark {text}")).map(|()| 0),
        ["note", file, text] => {
            let mut file = File::options().append(true).create(true).open(file)?;
            file.write_all(format!("{text}\n").as_bytes())?;
            file.sync_all()?;
            Ok(0)
        }
        _ => bail!("usage: replay cuts JSON | replay mark DEVICE TEXT | replay note FILE TEXT"),
    }
}
