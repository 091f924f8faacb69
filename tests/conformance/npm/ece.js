// Web Push messages as npm's http_ece reads and writes them: one JSON object a line in, one a line out, in order.
//   {"decrypt": body, "private": key, "auth": secret}            -> {"plaintext": …} or {"error": …}
//   {"encrypt": plaintext, "public": key, "auth": secret}        -> {"body": …} or {"error": …}
// All bytes are base64url.
'use strict';
const crypto = require('crypto');
const ece = require('http_ece');

const bytes = (text) => Buffer.from(text, 'base64url');

function answer(asked) {
  const pair = crypto.createECDH('prime256v1');
  if (asked.decrypt !== undefined) {
    pair.setPrivateKey(bytes(asked.private));
    const opened = ece.decrypt(bytes(asked.decrypt), { version: 'aes128gcm', privateKey: pair, authSecret: asked.auth });
    return { plaintext: opened.toString('base64url') };
  }
  pair.generateKeys();
  const sealed = ece.encrypt(bytes(asked.encrypt), {
    version: 'aes128gcm', dh: asked.public, privateKey: pair, salt: crypto.randomBytes(16).toString('base64url'),
    authSecret: asked.auth,
  });
  return { body: sealed.toString('base64url') };
}

for (const line of require('fs').readFileSync(0, 'utf8').split('\n')) {
  if (line === '') continue;
  let said;
  try {
    said = answer(JSON.parse(line));
  } catch (error) {
    said = { error: error.message };
  }
  process.stdout.write(JSON.stringify(said) + '\n');
}
