//! Command line → command → exit code.

use std::process::ExitCode;

use clap::Parser as _;
use turnstile::cli::{Cli, Command};
use turnstile::config::ConfigError;
use turnstile::{app, compare, demo};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => app::serve(args).await.map(|()| true),
            Command::Demo(args) => demo::run(args).await.map(|()| true),
            Command::Install(args) => app::install(args).await.map(|()| true),
            Command::Uninstall(args) => app::uninstall(args).await.map(|()| true),
            Command::Status(args) => app::status(args).await,
            Command::Compare(args) => compare::run(args).await,
            Command::Explain(args) => app::explain_sql(args).await.map(|()| true),
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => fail(&error),
    }
}

/// Says what happened; 2 for a configuration that was refused, 1 for everything else.
#[expect(clippy::print_stderr, reason = "the last words of a command line program")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("turnstile: {error:#}");
    ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
}
