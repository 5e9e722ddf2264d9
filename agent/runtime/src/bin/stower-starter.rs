//! The small program between the agent and the shim; see `stower_runtime::start`.

fn main() -> std::process::ExitCode {
    stower_runtime::start::starter::main()
}
