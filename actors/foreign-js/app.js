// An actor in JavaScript with what components of wasmCloud 1.x import, unchanged: stores, objects, messages, Postgres.
//
// `GET /` uses each of them once and answers a line for each; `GET /heard` answers the last message that it handled.

import { increment } from 'wasi:keyvalue/atomics@0.2.0-draft';
import { open } from 'wasi:keyvalue/store@0.2.0-draft';
import { containerExists, createContainer, getContainer } from 'wasi:blobstore/blobstore@0.2.0-draft';
import { IncomingValue, OutgoingValue } from 'wasi:blobstore/types@0.2.0-draft';
import { CallTargetInterface, setLinkName } from 'wasmcloud:bus/lattice@2.0.1';
import { publish } from 'wasmcloud:messaging/consumer@0.2.0';
import { query } from 'wasmcloud:postgres/query@0.1.1-draft';

const bytes = (text) => new TextEncoder().encode(text);
const text = (bytes) => new TextDecoder().decode(bytes);

addEventListener('fetch', (event) => event.respondWith(answer(new URL(event.request.url).pathname)));

export const handler = {
  handleMessage({ body }) {
    open('foreign').set('heard', body);
  },
};

function answer(path) {
  try {
    return new Response(path === '/heard' ? text(open('foreign').get('heard') ?? bytes('nothing')) : everything());
  } catch (error) {
    return new Response(`error: ${JSON.stringify(error.payload) ?? error}`);
  }
}

function everything() {
  return [
    `key-value: ${keys()}`,
    `blob-store: ${objects()}`,
    `messaging: ${say()}`,
    `postgres: ${table()}`,
    `links: ${links()}`,
  ].join('\n');
}

function keys() {
  const bucket = open('foreign');
  bucket.set('word', bytes('kept'));
  increment(bucket, 'count', 2n);
  return `${text(bucket.get('word'))} ${increment(bucket, 'count', 1n)} ${bucket.get('none')}`;
}

function objects() {
  const container = containerExists('foreign') ? getContainer('foreign') : createContainer('foreign');
  const value = OutgoingValue.newOutgoingValue();
  container.writeData('object', value);
  const stream = value.outgoingValueWriteBody();
  stream.blockingWriteAndFlush(bytes('an object'));
  // The stream has to go before the value is finished.
  stream[Symbol.dispose]();
  OutgoingValue.finish(value);
  return text(IncomingValue.incomingValueConsumeSync(container.getData('object', 3n, 100n)));
}

function say() {
  publish({ subject: 'foreign', body: bytes('said in JavaScript'), replyTo: undefined });
  return 'said';
}

function table() {
  const [[entry]] = query('SELECT $1::int4 + 1 AS n', [{ tag: 'int4', val: 6 }]);
  return `${entry.columnName} ${entry.value.val}`;
}

function links() {
  setLinkName('other', [new CallTargetInterface('wasi', 'keyvalue', 'store')]);
  return open('foreign').get('word');
}
