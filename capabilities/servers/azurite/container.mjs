// Makes a container in the account of a server of Azure's protocol: node container.mjs URL ACCOUNT KEY CONTAINER
import { createHmac } from 'node:crypto'

const [url, account, key, container] = process.argv.slice(2)
const date = new Date().toUTCString()
const version = '2023-11-03'
// The account is in the path too, as the server has no host name for each account.
const resource = `/${account}/${account}/${container}\nrestype:container`
const signed = `PUT\n${'\n'.repeat(11)}x-ms-date:${date}\nx-ms-version:${version}\n${resource}`
const signature = createHmac('sha256', Buffer.from(key, 'base64')).update(signed).digest('base64')
const response = await fetch(`${url}/${account}/${container}?restype=container`, {
  method: 'PUT',
  headers: {
    'x-ms-date': date,
    'x-ms-version': version,
    authorization: `SharedKey ${account}:${signature}`,
  },
})
if (response.status !== 201) {
  throw new Error(`${response.status}: ${await response.text()}`)
}
