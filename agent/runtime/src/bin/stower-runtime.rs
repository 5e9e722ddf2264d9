//! The OCI command line; see `stower_runtime::oci`.

fn main() -> std::process::ExitCode {
    stower_runtime::oci::main()
}
