fn main() -> std::io::Result<()> {
    let protos = std::env::var("PROTOS").expect("PROTOS: the folder protos/ of the registry");
    println!("cargo:rerun-if-env-changed=PROTOS");
    tonic_prost_build::configure().build_server(false).compile_protos(&["registry/v1/registry.proto"], &[&protos])
}
