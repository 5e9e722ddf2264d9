//! The `stower` binary: the agent, and the command line that talks to it.

fn main() -> std::process::ExitCode {
    stower::cli::main()
}
