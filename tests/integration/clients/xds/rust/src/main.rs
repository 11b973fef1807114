//! tonic with tonic-xds. What it does: README.md beside.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_xds::{XdsChannelBuilder, XdsChannelConfig, XdsChannelGrpc, XdsUri};

const METHOD: &str = "/registry.test.Backend/Who";
const CALL_TIME: Duration = Duration::from_secs(5);
const WAIT_TIME: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
const AT_A_TIME: usize = 8;

/// What came of some calls.
struct Tally {
    answers: BTreeMap<String, usize>,
    failed: usize,
    text: String,
    last: Instant,
    longest: Duration,
}

type Shared = Arc<Mutex<Tally>>;

fn tally() -> Shared {
    let (answers, text) = (BTreeMap::new(), String::new());
    Arc::new(Mutex::new(Tally { answers, failed: 0, text, last: Instant::now(), longest: Duration::ZERO }))
}

impl Tally {
    fn add(&mut self, answer: Result<String, Status>) {
        match answer {
            Ok(name) => {
                *self.answers.entry(name).or_default() += 1;
                self.longest = self.longest.max(self.last.elapsed());
                self.last = Instant::now();
            }
            Err(status) => {
                self.failed += 1;
                self.text = format!("{:?} {}", status.code(), status.message()).replace('\n', " ");
            }
        }
    }

    fn say(&self) {
        let words: Vec<_> = self.answers.iter().map(|(name, count)| format!("{name}={count}")).collect();
        println!("{}\t{}\t{}\t{}", words.join(" "), self.failed, self.longest.as_millis(), self.text);
    }
}

/// An empty message for one with a text in it: prost has both as types of Rust.
async fn call(channel: XdsChannelGrpc) -> Result<String, Status> {
    let one = async {
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
        let codec: ProstCodec<(), String> = ProstCodec::default();
        let answer = client.unary(Request::new(()), PathAndQuery::from_static(METHOD), codec).await?;
        Ok(answer.into_inner())
    };
    let late = || Status::new(Code::DeadlineExceeded, "no answer in time");
    tokio::time::timeout(CALL_TIME, one).await.unwrap_or_else(|_| Err(late()))
}

/// tonic knows no waiting until there is somebody to call.
async fn wait(channel: &XdsChannelGrpc) -> Shared {
    let (done, since) = (tally(), Instant::now());
    loop {
        let answer = call(channel.clone()).await;
        if answer.is_ok() || since.elapsed() > WAIT_TIME {
            done.lock().unwrap().add(answer);
            return done;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn many(channel: &XdsChannelGrpc, count: i64) -> Shared {
    let (done, due) = (tally(), Arc::new(AtomicI64::new(count)));
    let mut callers = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (channel, done, due) = (channel.clone(), done.clone(), due.clone());
        callers.spawn_local(async move {
            while due.fetch_sub(1, Ordering::Relaxed) > 0 {
                let answer = call(channel.clone()).await;
                done.lock().unwrap().add(answer);
            }
        });
    }
    callers.join_all().await;
    done
}

/// Calls at a rate, until it is stopped; then those are awaited that are under way.
async fn load(channel: XdsChannelGrpc, rate: u32, mut stopped: oneshot::Receiver<()>) -> Shared {
    let (done, mut callers) = (tally(), JoinSet::new());
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
    loop {
        tokio::select! {
            _ = pace.tick() => {
                let (channel, done) = (channel.clone(), done.clone());
                callers.spawn_local(async move {
                    let answer = call(channel).await;
                    done.lock().unwrap().add(answer);
                });
            }
            _ = &mut stopped => break,
        }
    }
    callers.join_all().await;
    done
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    LocalSet::new().run_until(run()).await
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).expect("the target");
    let channel = XdsChannelBuilder::new(XdsChannelConfig::new(XdsUri::parse(&target)?)).build_grpc_channel()?;
    let mut under = None;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let done = match word {
            "wait" => wait(&channel).await,
            "call" => many(&channel, number.parse()?).await,
            "load" => {
                let (stop, stopped) = oneshot::channel();
                under = Some((stop, spawn_local(load(channel.clone(), number.parse()?, stopped))));
                tally()
            }
            _ => {
                let (stop, task) = under.take().expect("a load");
                drop(stop);
                task.await?
            }
        };
        done.lock().unwrap().say();
    }
    Ok(())
}
