fn main() -> std::process::ExitCode {
    hotbook::cli::main()
}
