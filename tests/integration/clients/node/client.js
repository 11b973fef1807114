// A client in Node, as its users have it: grpc-js, and stubs made of the .proto as it starts. What it does: README.md beside.
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs'); // proto-loader's own

const [address, namespace] = process.argv.slice(2);
const CALL_MS = 30_000;
const SHORT_MS = 300;
const GZIP = 2; // of grpc.default_compression_algorithm

const options = { includeDirs: [process.env.PROTOS], keepCase: true, longs: String, enums: String, defaults: true };
const definition = loader.loadSync('registry/v1/registry.proto', options);
const { Registry } = grpc.loadPackageDefinition(definition).registry.v1;
const registry = new Registry(address, grpc.credentials.createInsecure());
const packing = new Registry(address, grpc.credentials.createInsecure(), { 'grpc.default_compression_algorithm': GZIP });
const key = { namespace, service: 'player', id: 'one' };

// What `grpc-status-details-bin` carries: of google/rpc/status.proto and error_details.proto as much as is needed.
const { root: errors } = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message FieldViolation { string field = 1; string description = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }`);

const say = (...words) => console.log(words.join(' '));
const name = (error) => grpc.status[error.code];
const within = (ms) => ({ deadline: Date.now() + ms });

function call(stub, method, request) {
  return new Promise((resolve, reject) => {
    stub[method](request, within(CALL_MS), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// The error that a promise ends with.
const failure = (promise) => promise.then(() => { throw new Error('no error'); }, (error) => error);

// What a stream says, one by one: messages, null at its end, or its error.
function steps(stream) {
  const said = [];
  const waiting = [];
  const tell = (what) => (waiting.length ? waiting.shift()(what) : said.push(what));
  stream.on('data', tell).on('end', () => tell(null)).on('error', tell);
  return async () => {
    const what = said.length ? said.shift() : await new Promise((resolve) => waiting.push(resolve));
    if (what instanceof Error) throw what;
    return what;
  };
}

// The next step that is a bookmark, or is none: on a machine that is busy one may come between any two.
async function nextStep(next, bookmark) {
  let step;
  do step = await next(); while (step.bookmark !== bookmark);
  return step;
}

// The error that a stream ends with.
async function end(next) {
  for (;;) {
    try {
      await next();
    } catch (error) {
      return error;
    }
  }
}

async function register() {
  const instance = { ...key, host: '10.0.0.5', port: 8001 };
  const done = await call(registry, 'Register', { instance, ttl: { seconds: CALL_MS / 1000 } });
  say('registered', done.instance.id, 'ttl', done.ttl.seconds);
  return done.lease_id;
}

// Two requests on one stream, which then ends from this side.
async function keepAlive(lease) {
  const stream = registry.KeepAlive(within(CALL_MS));
  const next = steps(stream);
  for (const id of [lease, 'nobody']) {
    stream.write({ lease_ids: [id] });
    say('renewal', (await next()).renewals[0].state);
  }
  stream.end();
  say('renewals end', (await next()) === null);
}

async function list(checksum) {
  const page = await call(registry, 'List', { namespace, service: key.service });
  say('listed', page.instances.length, 'same checksum', page.checksum === checksum);
}

// A stream that outlasts its deadline.
async function deadline() {
  const next = steps(registry.Watch({ namespace, services: ['nobody'] }, within(SHORT_MS)));
  say('deadline', name(await end(next)));
}

async function cancelled() {
  const stream = registry.Watch({ namespace, services: ['nobody'] }, within(CALL_MS));
  const next = steps(stream);
  await nextStep(next, false);
  stream.cancel();
  say('cancelled', name(await end(next)));
}

// About 900 KB there and more back, and then more than the server takes.
async function big() {
  for (const length of [90, 120]) {
    const stream = registry.KeepAlive(within(CALL_MS));
    const next = steps(stream);
    stream.write({ lease_ids: Array(10_000).fill('x'.repeat(length)) });
    try {
      const answer = await next();
      say('big', answer.renewals.length, answer.renewals[9_999].state);
      stream.end();
    } catch (error) {
      say('too big', name(error));
    }
  }
}

async function refused() {
  const instance = { namespace, service: 'player', host: '10.0.0.5', port: 70_000 };
  const error = await failure(call(registry, 'Register', { instance }));
  const [packed] = errors.lookupType('Status').decode(error.metadata.get('grpc-status-details-bin')[0]).details;
  const request = errors.lookupType('BadRequest').decode(packed.value);
  say('refused', name(error), request.fieldViolations[0].field);
}

async function run() {
  const lease = await register();
  await keepAlive(lease);
  const watch = registry.Watch({ namespace, services: ['player'] }, within(CALL_MS));
  const next = steps(watch);
  const first = await nextStep(next, false);
  say('watch reset', first.reset, 'upserts', first.upserts.length);
  const change = { instance: { ...key, weight: 7 }, update_mask: { paths: ['weight'] } };
  await call(packing, 'Update', change); // packed by gzip on its way there
  const changed = await nextStep(next, false);
  say('watch reset', changed.reset, 'weight', changed.upserts[0].weight);
  await list(changed.checksum);
  say('watch bookmark', (await nextStep(next, true)).bookmark);
  await deadline();
  await cancelled();
  await big();
  await refused();
  say('left', (await call(registry, 'Deregister', { lease_id: lease })).removed);
  const [gone] = (await nextStep(next, false)).removed;
  say('watch removed', gone.id, gone.cause);
  watch.cancel(); // or node stays for it
  say('gone', name(await failure(call(registry, 'Get', { key }))));
}

run().finally(() => [registry, packing].forEach((stub) => stub.close()));
