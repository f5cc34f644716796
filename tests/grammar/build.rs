//! Compiles libpg_query from the sources of the crate `pg_raw_parse`, and tells where its SQL is.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let crate_folder = source_of("pg_raw_parse");
    let library = crate_folder.join("libpg_query");
    println!("cargo::rustc-env=LIBPG_QUERY={}", library.display());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/strlcpy.c");
    let mut build = cc::Build::new();
    build.opt_level(1).warnings(false).flag("-fno-strict-aliasing").flag("-fwrapv");
    for folder in ["", "vendor", "src/postgres/include", "src/include"] {
        build.include(library.join(folder));
    }
    let files = [
        c_files(&library.join("src")),
        c_files(&library.join("src/postgres")),
        vec![
            library.join("vendor/protobuf-c/protobuf-c.c"),
            library.join("vendor/xxhash/xxhash.c"),
            library.join("protobuf/pg_query.pb-c.c"),
            PathBuf::from("src/strlcpy.c"),
        ],
    ];
    build.files(files.concat()).compile("pg_query");
}

/// Where cargo keeps the sources of a package.
fn source_of(package: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("cargo sets it");
    let output =
        Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).output().expect("cargo runs");
    let output = if output.status.success() {
        output
    } else {
        let cargo = std::env::var_os("CARGO").expect("cargo sets it");
        Command::new(cargo).args(["metadata", "--format-version", "1"]).output().expect("cargo runs")
    };
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let found = packages.iter().find(|known| known["name"] == package).expect("the package is a dependency");
    Path::new(found["manifest_path"].as_str().expect("a path")).parent().expect("a folder").into()
}

fn c_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the library's sources");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|ending| ending == "c")).collect();
    files.sort();
    files
}
