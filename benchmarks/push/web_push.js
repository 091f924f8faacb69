// npm's web-push beside us: the first line says keys and subscriptions, each further one {"size": …, "messages": …};
// the answer to a line is the CPU time, in seconds, that it has cost.
'use strict';
const crypto = require('crypto');
const webPush = require('web-push');

let subscriptions;
let options;

function work({ size, messages }) {
  const payload = crypto.randomBytes(size);
  const before = process.cpuUsage();
  for (let number = 0; number < messages; number++) {
    webPush.generateRequestDetails(subscriptions[number % subscriptions.length], payload, options);
  }
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const said = JSON.parse(line);
  if (said.subscriptions === undefined) {
    process.stdout.write(`${work(said)}\n`);
    return;
  }
  subscriptions = said.subscriptions;
  options = { TTL: 60, vapidDetails: { subject: said.subject, publicKey: said.public, privateKey: said.private } };
  process.stdout.write('0\n');
});
