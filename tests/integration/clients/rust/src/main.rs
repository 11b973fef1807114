//! A client in Rust, as its users have it: tonic, and stubs of tonic-prost-build. What it does: README.md beside.

use std::time::Duration;

use pb::registry_client::RegistryClient;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

mod pb {
    tonic::include_proto!("registry.v1");
}

type Registry = RegistryClient<Channel>;
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const CALL_S: i64 = 30;
const SHORT: Duration = Duration::from_millis(300);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let channel = Channel::from_shared(format!("http://{}", arguments[1]))?.connect().await?;
    let mut registry = RegistryClient::new(channel.clone());
    let mut packing = RegistryClient::new(channel).send_compressed(CompressionEncoding::Gzip);
    let namespace = arguments[2].as_str();
    let key = pb::InstanceKey { namespace: namespace.into(), service: "player".into(), id: "one".into() };

    let lease = register(&mut registry, &key).await?;
    keep_alive(&mut registry, &lease).await?;
    let mut watch = watching(&mut registry, namespace, "player").await?;
    let first = next(&mut watch, false).await?;
    println!("watch reset {} upserts {}", first.reset, first.upserts.len());
    update(&mut packing, &key).await?;
    let changed = next(&mut watch, false).await?;
    println!("watch reset {} weight {}", changed.reset, changed.upserts[0].weight());
    list(&mut registry, &key, changed.checksum).await?;
    println!("watch bookmark {}", next(&mut watch, true).await?.bookmark);
    deadline(&mut registry, namespace).await?;
    cancelled(&mut registry, namespace).await?;
    big(&mut registry).await?;
    refused(&mut registry, namespace).await?;
    let left = registry.deregister(pb::DeregisterRequest { lease_id: lease, ..Default::default() }).await?;
    println!("left {}", left.into_inner().removed);
    let left = &next(&mut watch, false).await?.removed[0];
    println!("watch removed {} {}", left.id, left.cause().as_str_name());
    let gone = registry.get(pb::GetRequest { key: Some(key) }).await.unwrap_err();
    println!("gone {}", name(&gone));
    Ok(())
}

/// As it is called everywhere but in Rust.
fn name(status: &Status) -> &'static str {
    match status.code() {
        Code::Cancelled => "CANCELLED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        _ => "ANOTHER",
    }
}

async fn watching(registry: &mut Registry, namespace: &str, service: &str) -> Outcome<Streaming<pb::WatchResponse>> {
    let request = pb::WatchRequest { namespace: namespace.into(), services: vec![service.into()], ..Default::default() };
    Ok(registry.watch(request).await?.into_inner())
}

/// The next step that is a bookmark, or is none: on a machine that is busy one may come between any two.
async fn next(watch: &mut Streaming<pb::WatchResponse>, bookmark: bool) -> Outcome<pb::WatchResponse> {
    loop {
        let step = watch.message().await?.ok_or("the watch is over")?;
        if step.bookmark == bookmark {
            return Ok(step);
        }
    }
}

async fn register(registry: &mut Registry, key: &pb::InstanceKey) -> Outcome<String> {
    let pb::InstanceKey { namespace, service, id } = key.clone();
    let instance = pb::Instance { namespace, service, id, host: "10.0.0.5".into(), port: 8001, ..Default::default() };
    let ttl = prost_types::Duration { seconds: CALL_S, nanos: 0 };
    let request = pb::RegisterRequest { instance: Some(instance), ttl: Some(ttl), ..Default::default() };
    let done = registry.register(request).await?.into_inner();
    println!("registered {} ttl {}", done.instance.unwrap().id, done.ttl.unwrap().seconds);
    Ok(done.lease_id)
}

/// Two requests on one stream, which then ends from this side. The call returns before anything was asked.
async fn keep_alive(registry: &mut Registry, lease: &str) -> Outcome<()> {
    let (send, requests) = tokio::sync::mpsc::channel(1);
    let mut answers = registry.keep_alive(ReceiverStream::new(requests)).await?.into_inner();
    send.send(renewal_of(lease)).await?;
    println!("renewal {}", renewed(&mut answers).await?.as_str_name());
    send.send(renewal_of("nobody")).await?;
    println!("renewal {}", renewed(&mut answers).await?.as_str_name());
    drop(send);
    println!("renewals end {}", answers.message().await?.is_none());
    Ok(())
}

fn renewal_of(lease: &str) -> pb::KeepAliveRequest {
    pb::KeepAliveRequest { lease_ids: vec![lease.into()] }
}

async fn renewed(answers: &mut Streaming<pb::KeepAliveResponse>) -> Outcome<pb::renewal::State> {
    Ok(answers.message().await?.ok_or("the renewals are over")?.renewals[0].state())
}

/// Packed by gzip on its way there.
async fn update(registry: &mut Registry, key: &pb::InstanceKey) -> Outcome<()> {
    let pb::InstanceKey { namespace, service, id } = key.clone();
    let instance = pb::Instance { namespace, service, id, weight: Some(7), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["weight".into()] });
    registry.update(pb::UpdateRequest { instance: Some(instance), update_mask }).await?;
    Ok(())
}

async fn list(registry: &mut Registry, key: &pb::InstanceKey, checksum: u64) -> Outcome<()> {
    let pb::InstanceKey { namespace, service, .. } = key.clone();
    let page = registry.list(pb::ListRequest { namespace, service, ..Default::default() }).await?.into_inner();
    println!("listed {} same checksum {}", page.instances.len(), page.checksum == checksum);
    Ok(())
}

/// A stream that outlasts its deadline.
async fn deadline(registry: &mut Registry, namespace: &str) -> Outcome<()> {
    let watch = pb::WatchRequest { namespace: namespace.into(), services: vec!["nobody".into()], ..Default::default() };
    let mut request = Request::new(watch);
    request.set_timeout(SHORT);
    let ended = match registry.watch(request).await {
        Ok(steps) => end(steps.into_inner()).await,
        Err(status) => status,
    };
    println!("deadline {}", name(&ended));
    Ok(())
}

/// The error that a stream ends with.
async fn end(mut watch: Streaming<pb::WatchResponse>) -> Status {
    loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("the watch is over"),
            Err(status) => return status,
        }
    }
}

/// Dropping a stream cancels it, and nobody is there any more to be told.
async fn cancelled(registry: &mut Registry, namespace: &str) -> Outcome<()> {
    let mut watch = watching(registry, namespace, "nobody").await?;
    next(&mut watch, false).await?;
    drop(watch);
    println!("cancelled CANCELLED");
    Ok(())
}

/// About 900 KB there and more back, and then more than the server takes.
async fn big(registry: &mut Registry) -> Outcome<()> {
    for length in [90, 120] {
        let request = pb::KeepAliveRequest { lease_ids: vec!["x".repeat(length); 10_000] };
        let sent = registry.keep_alive(tokio_stream::once(request)).await;
        let answer = match sent {
            Ok(answers) => answers.into_inner().message().await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(Some(answer)) => println!("big {} {}", answer.renewals.len(), answer.renewals[9_999].state().as_str_name()),
            Ok(None) => println!("big but no answer"),
            Err(status) => println!("too big {}", name(&status)),
        }
    }
    Ok(())
}

async fn refused(registry: &mut Registry, namespace: &str) -> Outcome<()> {
    let (namespace, service) = (namespace.into(), "player".into());
    let instance = pb::Instance { namespace, service, host: "10.0.0.5".into(), port: 70_000, ..Default::default() };
    let request = pb::RegisterRequest { instance: Some(instance), ..Default::default() };
    let status = registry.register(request).await.unwrap_err();
    let details = status.get_details_bad_request().ok_or("no details")?;
    println!("refused {} {}", name(&status), details.field_violations[0].field);
    Ok(())
}
