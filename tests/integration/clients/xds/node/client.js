// grpc-js with its xDS plugin. What it does: README.md beside.
const readline = require('readline');
const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register();

const METHOD = '/registry.test.Backend/Who';
const CALL_MS = 5_000;
const WAIT_MS = 30_000;
const AT_A_TIME = 8;

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
// A StringValue with a short text: a byte for the field, one for the length, and the text.
const decoded = (message) => message.subarray(2).toString();
const nothing = () => Buffer.alloc(0);

// What came of some calls.
class Tally {
  answers = new Map();
  failed = 0;
  text = '';
  last = performance.now();
  longest = 0;

  add(error, name) {
    if (error) {
      this.failed += 1;
      this.text = `${grpc.status[error.code]} ${error.details}`.replaceAll('\n', ' ');
      return;
    }
    this.answers.set(name, (this.answers.get(name) ?? 0) + 1);
    const now = performance.now();
    this.longest = Math.max(this.longest, now - this.last);
    this.last = now;
  }

  say() {
    const words = [...this.answers].map(([name, count]) => `${name}=${count}`).join(' ');
    console.log([words, this.failed, Math.round(this.longest), this.text].join('\t'));
  }
}

function call(tally, ms, waitForReady) {
  const metadata = new grpc.Metadata({ waitForReady });
  return new Promise((resolve) => {
    client.makeUnaryRequest(METHOD, nothing, decoded, null, metadata, { deadline: Date.now() + ms }, (error, name) => {
      tally.add(error, name);
      resolve();
    });
  });
}

async function many(count) {
  const tally = new Tally();
  let due = count;
  const caller = async () => {
    while (due-- > 0) await call(tally, CALL_MS, false);
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, caller));
  return tally;
}

// Calls at a rate until it is stopped.
class Load {
  tally = new Tally();
  underWay = new Set();

  constructor(rate) {
    this.timer = setInterval(() => {
      const one = call(this.tally, CALL_MS, false).then(() => this.underWay.delete(one));
      this.underWay.add(one);
    }, 1000 / rate);
  }

  async stop() {
    clearInterval(this.timer);
    await Promise.all(this.underWay);
    return this.tally;
  }
}

async function main() {
  let load;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [word, number] = line.split(' ');
    let tally = new Tally();
    if (word === 'wait') await call(tally, WAIT_MS, true);
    if (word === 'call') tally = await many(Number(number));
    if (word === 'load') load = new Load(Number(number));
    if (word === 'stop') tally = await load.stop();
    tally.say();
  }
  process.exit(0);
}

main();
