//! Compiles the store's and the demo's protobufs with protox, so that no `protoc` is needed, and notes the commit for `--version`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    compile_demo(&out.join("demo.bin"))?;
    compile_store(&out.join("store"))?;
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rustc-env=JITGATE_COMMIT={}", commit());
    Ok(())
}

/// The demo upstream's service, and its descriptors for reflection.
fn compile_demo(descriptors: &Path) -> Result<(), Box<dyn Error>> {
    let set = protox::compile(["ledger.proto"], ["proto/demo"])?;
    fs::write(descriptors, prost::Message::encode_to_vec(&set))?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}

/// The store's own messages, in a directory of their own: the API's descriptors, which reflection serves, do not name them.
fn compile_store(out: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(out)?;
    let set = protox::compile(["jitgate/store/v1/store.proto"], ["proto"])?;
    fs::write(
        out.with_extension("bin"),
        prost::Message::encode_to_vec(&set),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        // Holds a private key; its Debug is written by hand.
        .skip_debug(["jitgate.store.v1.TokenKey"])
        .build_client(false)
        .build_server(false)
        .out_dir(out)
        .compile_fds(set)?;
    Ok(())
}

/// The short commit hash, or `unknown` outside a git checkout.
fn commit() -> String {
    // The log of HEAD changes with each commit; where there is none (a source archive), nothing is watched.
    if let Some(log) =
        git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists())
    {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout)
        .ok()
        .filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}
