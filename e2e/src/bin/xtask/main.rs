//! The project's own commands: `cargo xtask demo | test | image | fuzz | kills | vm | powercut | oci | bench`.

mod bench;
mod build;
mod demo;
mod fuzz;
mod image;
mod kills;
mod oci;
mod powercut;
mod stats;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask COMMAND
  demo [--once]     run the agent on manifests/examples, with no network and no registry, until Ctrl-C
  test              install what the tests need, then run every check and every test
  image [--debug | --binary FILE] [--reference NAME] [DIR]
                    build the agent's container image, an OCI layout and the same as one archive, below DIR (target/image); needs no
                    Docker. FILE is a stower that is built already; one program makes one image, byte for byte
  fuzz [SECONDS]    give hostile bytes to the storage, for so long to each target (60); --repeatable: the same ones
                    each time
  kills [--n COUNT] [--seed N]
                    kill the agent COUNT times (1000) while containers come and go, and count what is left
  vm [--essential | --test NAME]
                    run the tests in a virtual machine: device-mapper, cgroup v2 alone, power cuts (needs QEMU, no KVM);
                    --essential: those that every change should pass
  powercut [--n COUNT] [--kills COUNT] [--driver NAME] [--seed N] [--here]
                    cut the power of recorded work at COUNT entries (1000) and verify what each leaves (needs QEMU, no KVM)
  oci [--vm [--alone]] [NAME]…
                    run the validation programs of the OCI runtime-tools on stower-runtime, and on runc and crun where they are
                    installed (needs Go); --vm: in a virtual machine with cgroup v2 alone, on Debian's runc and crun, or --alone
  oci --podman      run redis and nginx under Debian's podman on stower-runtime
  bench [ROUNDS]    measure an optimised build and print medians, and ratios to a bare clone3
  bench --n COUNT   so many containers on one agent: rate of starts, memory, what a change costs";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["demo"] => demo::run(false),
        ["demo", "--once"] => demo::run(true),
        ["test"] => test::run(),
        ["image", rest @ ..] => image::run(rest),
        ["fuzz"] => fuzz::run(fuzz::Search::Seconds(60)),
        ["fuzz", "--repeatable"] => fuzz::run(fuzz::Search::Repeatable(1500)),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::run(fuzz::Search::Seconds(seconds)),
            Err(_) => bail!("{USAGE}"),
        },
        ["kills", rest @ ..] => kills::run(rest),
        ["vm"] => vm::run(&[]),
        ["vm", "--essential"] => vm::run_essential(),
        ["vm", "--test", name] => vm::run(&[name]),
        ["powercut", rest @ ..] => powercut::run(rest),
        ["oci", "--podman"] => oci::podman::run(),
        ["oci", "--vm", "--alone", names @ ..] => oci::run_in_guest(names, true),
        ["oci", "--vm", names @ ..] => oci::run_in_guest(names, false),
        ["oci", names @ ..] => oci::run(names),
        ["bench", rest @ ..] => bench::run(rest),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}
