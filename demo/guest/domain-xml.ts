import { XMLBuilder } from 'fast-xml-parser';

export interface GuestDomain {
  name: string;
  kernel: string;
  initrd: string;
  consoleLog: string;
  disks: { target: string; serial?: string; file: string }[];
  kvm: boolean;
}

const builder = new XMLBuilder({ ignoreAttributes: false, attributeNamePrefix: '@' });

/** The domain XML of the demo's guest: no firmware to wait for, no network, no display. */
export function guestDomainXml({ name, kernel, initrd, consoleLog, disks, kvm }: GuestDomain): string {
  return builder.build({
    domain: {
      '@type': kvm ? 'kvm' : 'qemu',
      name,
      memory: { '@unit': 'MiB', '#text': '192' },
      vcpu: '1',
      os: {
        type: { '@arch': 'x86_64', '@machine': 'pc', '#text': 'hvm' },
        kernel,
        initrd,
        cmdline: 'console=ttyS0 quiet panic=1',
      },
      features: { acpi: '' },
      ...(kvm ? { cpu: { '@mode': 'host-passthrough' } } : {}),
      on_reboot: 'destroy', // panic=1 reboots: a guest that fails shall not try for ever
      devices: {
        disk: disks.map(({ target, serial, file }) => ({
          '@type': 'file',
          '@device': 'disk',
          driver: { '@name': 'qemu', '@type': 'qcow2', '@discard': 'unmap' },
          source: { '@file': file },
          target: { '@dev': target, '@bus': 'virtio' },
          ...(serial === undefined ? {} : { serial }),
        })),
        serial: { '@type': 'file', source: { '@path': consoleLog }, target: { '@port': '0' } },
        channel: { '@type': 'unix', target: { '@type': 'virtio', '@name': 'org.qemu.guest_agent.0' } },
        controller: { '@type': 'usb', '@model': 'none' },
        memballoon: { '@model': 'none' },
      },
    },
  });
}
