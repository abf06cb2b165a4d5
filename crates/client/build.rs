//! Compiles the API's protobufs with protox, so that no `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

/// Relative to this package.
const PROTO: &str = "../../proto";

/// Messages that hold a credential; their Debug is written by hand.
const CREDENTIALS: [&str; 3] = [
    "jitgate.v1.IssueTokenResponse",
    "jitgate.v1.IntrospectTokenRequest",
    "jitgate.v1.ValidateAccessRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let files = [
        "jitgate/v1/grants.proto",
        "jitgate/v1/access.proto",
        "jitgate/v1/watch.proto",
        "jitgate/v1/tokens.proto",
        "jitgate/v1/policies.proto",
        "jitgate/v1/audit.proto",
    ];
    let set = protox::compile(files, [PROTO])?;
    fs::write(out.join("jitgate.bin"), prost::Message::encode_to_vec(&set))?;
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(CREDENTIALS)
        .codec_path("crate::codec::SmallCodec")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(set)?;
    println!("cargo:rerun-if-changed={PROTO}/jitgate/v1");
    Ok(())
}
