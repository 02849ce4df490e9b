// The smallest actor in JavaScript: componentize-js turns the `fetch` event into wasi:http.

addEventListener('fetch', (event) => {
  event.respondWith(
    new Response('Hello from JavaScript\n', {
      headers: { 'content-type': 'text/plain; charset=utf-8' },
    }),
  );
});
