//! Clients other than kubectl, unmodified, against a real control plane without nodes: the official Python client
//! (`official.py`) and kube-rs (`rust.rs`). Needs what `cargo xtask setup` makes; no root.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic, as tests do")]

mod rust;
mod server;

use std::process::Command;

use oarlock_tests::cluster::{PYTHON, Said, root};
use server::Server;

#[test]
fn the_official_python_client_finds_what_it_expects() {
    let server = Server::start();
    let request = server.folder().join("alice.csr");
    let openssl =
        ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=alice", "-keyout", "/dev/null"];
    let said = Said::from(Command::new("openssl").args(openssl).arg("-out").arg(&request).output().unwrap());
    assert!(said.well, "{}", said.text);
    let mut python = Command::new(root().join(PYTHON));
    python
        .arg(root().join("tests/tests/clients/official.py"))
        .arg(request)
        .env("KUBECONFIG", server.kubeconfig());
    let output =
        python.output().unwrap_or_else(|error| panic!("{PYTHON} ({error}): `cargo xtask setup` makes it"));
    let said = Said::from(output);
    assert!(said.well, "{}\n{}", said.text, server.log());
    print!("{}", said.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_finds_what_it_expects() {
    let server = Server::start();
    let client = rust::client(&server.kubeconfig()).await;
    rust::objects_are_written_in_every_way(&client).await;
    rust::lists_come_in_pages(&client).await;
    rust::watchers_see_everything_and_resume(&client).await;
    rust::applied_fields_have_owners(&client).await;
    rust::parts_of_objects_are_written_alone(&client).await;
    rust::kinds_are_discovered(&client).await;
    rust::a_controller_of_somebody_elses_works(&client).await;
}
