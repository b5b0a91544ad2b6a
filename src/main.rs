//! Arguments and exit code.

fn main() -> std::process::ExitCode {
    taskpass::cli::main()
}
